"""Popular architectures through the packed path: each equals transformers' own path on every segment alone, or is
refused by `verify` before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from core.errors import AttuneError
from core.spec import LoraSettings, Quantization
from tests.engine.test_pack import CPU, make_segments
from worker.engine.lora import attach
from worker.engine.loss import Head
from worker.engine.model import hidden_states, load_base
from worker.engine.pack import Pack
from worker.engine.verify import verify

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Windows shorter than the longest segment (90 tokens), so that they matter
SUPPORTED: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.25, "embedding_multiplier": 6.0},
    "cohere": {"logit_scale": 0.25},
    "olmo2": {},
    "smollm3": {},
}
REFUSED: dict[str, dict[str, object]] = {
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "mamba": {"state_size": 4},
}


def make(model_type: str, extra: dict[str, object], folder: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **SMALL, initializer_range=0.1, **extra)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def packed_and_alone(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    segments = make_segments()
    pack = Pack.of(segments, CPU)
    ours = Head(model).logits(hidden_states(model, pack.token_ids, pack.position_ids, pack.segments))
    lengths = [len(segment.token_ids) for segment in segments]
    alone = [model(input_ids=part[None], use_cache=False).logits[0] for part in pack.token_ids.split(lengths)]
    return ours, torch.cat(alone)


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_packed_equals_each_segment_alone(model_type: str, tmp_path: Path) -> None:
    make(model_type, SUPPORTED[model_type], tmp_path)
    model = load_base(tmp_path, Quantization.NF4, "float32", "cpu")
    verify(model)
    modules = attach(model, LoraSettings(rank=2, scale=2.0, dropout=0.0), seed=1)
    for parameter in modules.parameters():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    packed, alone = packed_and_alone(model)
    assert (packed - alone).norm() < 1e-4 * alone.norm()
    packed.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in modules.parameters())


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_packing_would_train_wrongly_is_refused(model_type: str, tmp_path: Path) -> None:
    make(model_type, REFUSED[model_type], tmp_path)
    with pytest.raises(AttuneError) as caught:
        verify(load_base(tmp_path, Quantization.NONE, "float32", "cpu"))
    assert caught.value.code == "base_unusable"


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    make("llama", {}, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(AttuneError, match="safetensors"):
        load_base(tmp_path, Quantization.NONE, "float32", "cpu")


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    make("llama", {}, tmp_path)
    config = tmp_path / "config.json"
    trap = '{"auto_map": {"AutoConfig": "trap.C", "AutoModelForCausalLM": "trap.M"}, "model_type": "trap",'
    config.write_text(config.read_text().replace('"model_type": "llama",', "").replace("{", trap, 1))
    (tmp_path / "trap.py").write_text("raise SystemExit('remote code ran')\n")
    with pytest.raises(AttuneError) as caught:
        load_base(tmp_path, Quantization.NONE, "float32", "cpu")
    assert caught.value.code == "base_unusable"
