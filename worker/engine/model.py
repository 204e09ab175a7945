"""Loading a base model: local safetensors only, never remote code, quantised or plain, frozen.

Layers that bitsandbytes would repack at the first forward pass are kept as they are, since their gradients
would be wrong afterwards.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from core.errors import AttuneError
from core.spec import Quantization
from worker.engine import attention
from worker.engine.recompute import save_memory

Precision = Literal["bfloat16", "float32"]


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def load_base(
    folder: Path,
    quantization: Quantization,
    precision: Precision,
    device: str,
    *,
    double_quantization: bool = True,
) -> PreTrainedModel:
    """The base in `folder`, on `device`, frozen and in eval mode; "attune" attention.

    Raises AttuneError where the folder is not a causal language model that can be trained here.
    """
    attention.register()
    transformers_logging.disable_progress_bar()
    dtype = getattr(torch, precision)
    target = resolve_device(device)
    if not list(folder.glob("*.safetensors")):
        raise AttuneError(f"{folder.name} holds no safetensors file", code="base_unusable", param="model")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=_quantizer(quantization, dtype, double_quantization),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention.NAME,
            device_map={"": target},
        )
    except ValueError as error:  # transformers' word for an unknown or unfit architecture
        reason = str(error).splitlines()[0].replace(str(folder), folder.name)
        raise AttuneError(f"this base cannot be loaded: {reason}", code="base_unusable", param="model") from error
    if quantization is not Quantization.NONE:
        _let_the_files_go(model)
    model.requires_grad_(False)
    model.eval()
    _keep_weights_trainable_through(model)
    save_memory(model)
    return model


def _quantizer(quantization: Quantization, dtype: torch.dtype, double: bool) -> BitsAndBytesConfig | None:
    """transformers leaves the output head as it is stored."""
    if quantization.is_4bit:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.value,
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=dtype,
        )
    if quantization is Quantization.INT8:
        # It says once a product that it rounds its input to float16 on the way to 8 bit
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def _keep_weights_trainable_through(model: nn.Module) -> None:
    """bitsandbytes repacks a Linear4bit for inference at its first eval forward on CPUs with AVX512_BF16, and
    gradients through it are wrong from then on; switched off for every layer."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _let_the_files_go(model: nn.Module) -> None:
    """Copy what is no quantised weight. On a CPU such a tensor is a view of a mapped file, and one of them keeps all
    pages in memory that were read to quantise the rest."""
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def keep_dequantised(model: PreTrainedModel, precision: Precision) -> None:
    """Turn 4-bit linears into plain ones with the weights that every product would dequantise: the same numbers for
    four times the memory and no time. On a base where it is done, nothing."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    dtype = getattr(torch, precision)
    for path in linear_names(model):
        layer = model.get_submodule(path)
        if isinstance(layer, Linear4bit):
            weight = layer.weight
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            whole = dequantize_4bit(weight.data.view(-1, 1), weight.quant_state).to(dtype)
            plain.weight = nn.Parameter(whole, requires_grad=False)
            plain.bias = layer.bias
            model.set_submodule(path, plain)


def linear_names(model: PreTrainedModel) -> list[str]:
    """Paths of all linear layers in model order, without the output head."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def parameter_count(folder: Path) -> int:
    """Parameters stored in the folder's safetensors files, read from their headers alone."""
    return sum(shape.numel() for shape in tensor_shapes(folder).values())


def tensor_shapes(folder: Path) -> dict[str, torch.Size]:
    """By name, of the folder's safetensors files."""
    return {name: torch.Size(entry["shape"]) for name, entry in tensor_headers(folder).items()}


def tensor_headers(folder: Path) -> dict[str, dict[str, Any]]:
    """What the folder's safetensors files say of each tensor: dtype, shape, place."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found.update((name, entry) for name, entry in header.items() if name != "__metadata__")
    return found


def hidden_states(
    model: PreTrainedModel, token_ids_T: Tensor, position_ids_T: Tensor, segments: attention.Segments
) -> Tensor:
    """[T, hidden] of a packed row, after the final norm and before the head."""
    out = model.base_model(
        input_ids=token_ids_T.unsqueeze(0),
        position_ids=position_ids_T.unsqueeze(0),
        attention_mask=attention.no_mask(token_ids_T.device),
        use_cache=False,
        segments=segments,
    )
    return out.last_hidden_state[0]
