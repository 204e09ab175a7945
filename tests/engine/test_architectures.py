"""Popular architectures through the packed path: each equals transformers' own path on every segment alone, or is
refused by `verify` before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from core.data.jsonl import Json
from core.errors import AttuneError
from core.protocol import CheckpointSaved, Trained
from core.rendering.render import Renderer
from core.spec import LoraSettings, Quantization
from tests.engine.conftest import MakeWork
from tests.engine.test_pack import CPU, make_segments
from tests.engine.test_train import losses, next_attempt, of_type, run, stop_after
from worker.engine.adapter import read_adapter
from worker.engine.lora import LoraModules, attach
from worker.engine.loss import Head
from worker.engine.model import Precision, hidden_states, load_base
from worker.engine.pack import Pack
from worker.engine.resident import Resident
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
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
STATE = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
# With what is said of each
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "gpt_oss": (EXPERTS, "a mixture of experts"),
    "mixtral": (EXPERTS, "a mixture of experts"),
    "qwen3_moe": (EXPERTS, "a mixture of experts"),
    "mamba": ({"state_size": 4}, "is not supported"),
    "mamba2": ({"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2}, "supported"),
    "recurrent_gemma": ({"lru_width": 32, "attention_window_size": 16}, "carries a state"),
    "lfm2": ({"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]}, "carries a state"),
    "falcon_h1": ({**STATE, "mamba_d_ssm": 32, "mamba_n_heads": 4}, "carries a state"),
    "bamba": (STATE, "carries a state"),
    "gemma3": ({"text_config": {**SMALL, "model_type": "gemma3_text"}, "vision_config": VISION}, "a multimodal model"),
}
# Small random bases of the families that users bring; SmolLM and the distilled DeepSeek models are Llamas and Qwens
TRAINED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3")


def make(model_type: str, extra: dict[str, object], folder: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **{**SMALL, "initializer_range": 0.1, **extra})
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", REFUSED)
def test_what_packing_would_train_wrongly_is_refused(model_type: str, precision: Precision, tmp_path: Path) -> None:
    extra, words = REFUSED[model_type]
    make(model_type, extra, tmp_path)
    with pytest.raises(AttuneError, match=f"{model_type} .*{words}") as caught:
        verify(load_base(tmp_path, Quantization.NONE, precision, "cpu"))
    assert caught.value.code == "base_unusable"


@pytest.mark.parametrize("model_type", TRAINED)
def test_a_family_trains_resumes_exports_loads_in_peft_and_generates(
    model_type: str, base_folder: Path, tmp_path: Path, make_work: MakeWork
) -> None:
    base = tmp_path / "base"
    make(model_type, {**SUPPORTED[model_type], "max_position_embeddings": 512}, base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_folder / name, base / name)
    choices = {"base": base, "quantization": Quantization.NONE, "examples": 8, "validation": 2, "epochs": 2}
    choices |= {"checkpoint_every_steps": 2}
    whole = run(Resident(), make_work("whole", **choices))
    work = make_work("parts", **choices, sample_prompts=("Where to?",))
    run(Resident(), work, stop_after(1))
    next_attempt(work)
    parts = run(Resident(), work)
    trained = of_type(Trained, parts)[0]
    assert losses(parts) == losses(whole)[1:]
    assert trained.adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256
    (checkpoint,) = of_type(CheckpointSaved, parts)

    ids = torch.tensor([Renderer.from_folder(base, "2026-01-01").render_prompt([ASK])])
    published = ((Path(checkpoint.folder), checkpoint.samples[0]), (work.adapter, trained.metrics.samples[0]))
    for folder, sample in published:
        ours = load_base(base, Quantization.NONE, "float32", "cpu")
        modules = LoraModules(ours)
        stored = read_adapter(folder)
        modules.add("default", stored.settings, stored.tensors)
        modules.activate("default")
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager"), folder
        ).eval()
        with torch.no_grad():
            assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-3, atol=1e-4)
            made = theirs.generate(input_ids=ids, max_new_tokens=8, do_sample=False, use_cache=True)
        answer = AutoTokenizer.from_pretrained(folder).decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert sample.answer.startswith(answer.rstrip("\ufffd"))


ASK: dict[str, Json] = {"role": "user", "content": "Where to?"}


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
