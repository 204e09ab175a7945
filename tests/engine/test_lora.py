"""LoRA layers against PEFT's reference, several adapters on one base, and a base left as it was found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import AttuneError
from core.spec import LoraSettings, Quantization
from tests.engine.test_architectures import make
from tests.engine.test_pack import adapted, gradient, make_segments
from worker.engine.lora import LoraModules, attach, frozen_weight
from worker.engine.loss import mean_loss
from worker.engine.model import Precision, linear_names, load_base

SETTINGS = LoraSettings(rank=4, scale=2.0, dropout=0.0)
TOKENS = torch.arange(1, 25)[None] * 11 % 300


def in_peft(
    model: PreTrainedModel, weights: dict[str, Tensor], *, alpha: int = 8, rslora: bool = False
) -> torch.nn.Module:
    """The same adapter on the same bare base, by PEFT."""
    config = LoraConfig(
        r=4,
        lora_alpha=alpha,
        lora_dropout=0.0,
        use_rslora=rslora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    result = set_peft_model_state_dict(wrapped, {key: value.clone() for key, value in weights.items()})
    assert not result.unexpected_keys
    return wrapped


@pytest.fixture(scope="module")
def with_biases(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen 2 with biases that are not zero on q, k and v, and a head that shares the embedding's weight."""
    folder = tmp_path_factory.mktemp("biases")
    make("qwen2", {"tie_word_embeddings": True}, folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(2)
    for name, value in tensors.items():
        if name.endswith(".bias"):
            value.normal_(std=0.5, generator=generator)
    assert "lm_head.weight" not in tensors
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


# bf16 keeps 8 bits, and PEFT computes its share in float32 where ours is in the base's precision
TOLERANCE = {"float32": 1e-4, "bfloat16": 6e-2}


@pytest.mark.parametrize("quantization", list(Quantization))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "biases, tied, rslora, single quantisation"])
def test_forward_and_gradient_equal_pefts(
    base_folder: Path, with_biases: Path, quantization: Quantization, precision: Precision, kind: str
) -> None:
    rslora = kind != "llama"
    folder = with_biases if rslora else base_folder
    model = load_base(folder, quantization, precision, "cpu", double_quantization=not rslora)
    # PEFT's alpha of 8 at rank 4: over the rank 2, over its square root 4
    modules = attach(model, SETTINGS.model_copy(update={"rslora": rslora, "scale": 4.0 if rslora else 2.0}), seed=5)
    generator = torch.Generator().manual_seed(1)
    for parameter in modules.parameters():
        parameter.data.normal_(std=0.1, generator=generator)
    logits = model(input_ids=TOKENS).logits.float()
    logits.square().mean().backward()
    weights = {name: value.clone() for name, value in modules.weights().items()}
    ours = [parameter.grad for parameter in modules.parameters()]
    modules.detach()

    theirs = in_peft(model, weights, rslora=rslora)
    their_logits = theirs(input_ids=TOKENS).logits.float()
    tolerance = TOLERANCE[precision]
    assert (logits - their_logits).norm() < tolerance * their_logits.norm()
    their_logits.square().mean().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    names = [name.replace(".weight", ".default.weight") for name in weights]
    for name, own in zip(names, ours, strict=True):
        reference = gradients[name]
        assert own is not None
        assert reference is not None
        assert (own - reference).norm() < tolerance * reference.norm() + 1e-9, name


def test_outlying_features_are_taken_out_of_the_8_bit_product_as_peft_does(base_folder: Path, tmp_path: Path) -> None:
    """LLM.int8() multiplies features above 6 in 16 bit; a large norm makes such features."""
    shutil.copytree(base_folder, tmp_path / "loud")
    tensors = load_file(tmp_path / "loud/model.safetensors")
    for name, value in tensors.items():
        if name.endswith("layernorm.weight"):
            value[3] = 20.0
    save_file(tensors, tmp_path / "loud/model.safetensors", {"format": "pt"})
    model, modules = adapted(tmp_path / "loud", Quantization.INT8)
    with torch.no_grad():
        logits = model(input_ids=TOKENS).logits
        weights = {name: value.clone() for name, value in modules.weights().items()}
        layer = model.get_submodule("model.layers.0.self_attn.q_proj").layer
        assert layer.state.idx is not None
        assert layer.state.idx.tolist() == [3]
        modules.detach()
        assert torch.allclose(logits, in_peft(model, weights)(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_gradients_through_nf4_are_right_after_a_validation(base_folder: Path) -> None:
    """bitsandbytes would repack its layers at the first eval forward and give wrong gradients from then on."""
    model, modules = adapted(base_folder, Quantization.NF4)
    segments = make_segments()
    _, before = gradient(model, modules, segments, [list(range(8))])
    mean_loss(model, segments)
    with torch.no_grad():
        model(input_ids=TOKENS)
    _, after = gradient(model, modules, segments, [list(range(8))])
    assert torch.equal(before, after)


def test_gradients_are_right_where_only_some_linears_are_adapted(base_folder: Path) -> None:
    """The unadapted 4-bit linears above pass the gradient through bitsandbytes' own code."""
    grads: list[Tensor] = []
    for quantization in (Quantization.NF4, Quantization.NONE):
        model = load_base(base_folder, quantization, "float32", "cpu")
        if quantization is Quantization.NONE:  # the same numbers as the 4-bit base, in plain layers
            quantized = load_base(base_folder, Quantization.NF4, "float32", "cpu")
            for name in linear_names(model):
                weight = frozen_weight(quantized.get_submodule(name), torch.float32)  # type: ignore[arg-type]
                model.get_submodule(name).weight.data.copy_(weight)  # type: ignore[union-attr, operator]
        modules = attach(model, SETTINGS.model_copy(update={"target_modules": ("q_proj", "v_proj")}), seed=3)
        for parameter in modules.parameters():
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        mean_loss(model, make_segments())
        grads.append(gradient(model, modules, make_segments(), [list(range(8))])[1])
        assert modules.target_modules() == ["q_proj", "v_proj"]
    assert (grads[0] - grads[1]).norm() < 1e-4 * grads[1].norm()


def test_a_is_drawn_as_peft_draws_it_and_b_is_zero(base_folder: Path) -> None:
    model = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    weights = attach(model, SETTINGS, seed=5).weights()
    for name, value in weights.items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = value.shape[1] ** -0.5  # kaiming_uniform with a = sqrt 5 over fan-in
            assert bound * 0.9 < value.abs().max() <= bound
    torch.manual_seed(99)
    again = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    assert all(torch.equal(weights[k], v) for k, v in attach(again, SETTINGS, seed=5).weights().items())


def test_dropout_follows_the_random_state_and_only_acts_in_training(base_folder: Path) -> None:
    """Forward and gradients against the definition: scale * B A (x * kept / (1 - p))."""
    model = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    modules = attach(model, SETTINGS.model_copy(update={"dropout": 0.3}), seed=5)
    layer = next(iter(modules.layers.values()))
    own = layer.factors["default"]
    own.b.data.normal_(std=0.1)
    x = torch.randn(50, own.a.shape[1], requires_grad=True)

    def outcome(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad(y.square().sum(), [x, own.a, own.b])]

    def by_definition(kept: Tensor) -> list[Tensor]:
        return outcome(layer.layer(x) + own.scale * (x * kept / 0.7 @ own.a.t() @ own.b.t()))

    def same(first: list[Tensor], second: list[Tensor]) -> bool:
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(first, second, strict=True))

    assert same(outcome(layer(x)), by_definition(torch.full_like(x, 0.7)))
    modules.training(True)
    torch.manual_seed(4)
    dropped = outcome(layer(x))
    torch.manual_seed(4)
    assert same(dropped, by_definition(torch.empty(x.shape, dtype=torch.bool).bernoulli_(0.7)))
    assert not same(outcome(layer(x)), dropped)


def test_several_adapters_share_a_base_one_active_at_a_time(base_folder: Path) -> None:
    model = load_base(base_folder, Quantization.NF4, "float32", "cpu")
    modules = LoraModules(model)
    with torch.no_grad():
        bare = model(input_ids=TOKENS).logits
        for seed, name in enumerate(("first", "second")):
            settings = SETTINGS.model_copy(update={"target_modules": ("q_proj",) if seed else "all-linear"})
            modules.create(settings, seed, name)
            for parameter in modules.parameters(name):
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
        outputs: dict[str | None, Tensor] = {}
        for name in ("first", "second", None, "first"):
            modules.activate(name)
            logits = model(input_ids=TOKENS).logits
            assert torch.equal(outputs.setdefault(name, logits), logits)
        assert torch.equal(outputs[None], bare)
        assert not torch.allclose(outputs["first"], outputs["second"])
        modules.remove("first")
        assert modules.active is None
        modules.detach()
        assert torch.equal(model(input_ids=TOKENS).logits, bare)
    assert not [m for m in model.modules() if type(m).__name__ == "LoraLinear"]


@pytest.mark.parametrize("fault", ["unknown", "shape", "partner", "empty"])
def test_an_adapter_that_does_not_fit_is_refused(base_folder: Path, fault: str) -> None:
    model, modules = adapted(base_folder, Quantization.NONE)
    tensors = dict(modules.weights())
    name = next(iter(tensors))
    if fault == "unknown":
        tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = tensors[name]
    elif fault == "shape":
        tensors[name] = tensors[name][:, :-1]
    elif fault == "partner":
        del tensors[name]
    else:
        tensors = {}
    modules.detach()
    with pytest.raises(AttuneError) as caught:
        LoraModules(model).add("bad", SETTINGS, tensors)
    assert caught.value.code == "adapter_misfit"


def test_an_unknown_target_module_is_refused_with_the_names_there_are(base_folder: Path) -> None:
    model = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    with pytest.raises(AttuneError, match="q_proj"):
        attach(model, SETTINGS.model_copy(update={"target_modules": ("qproj",)}), seed=1)
