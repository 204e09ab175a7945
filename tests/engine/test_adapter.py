"""Adapters on disk: plain PEFT loads them and computes the same, equal runs are equal files, faults are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import AttuneError
from core.rendering.render import Renderer
from core.spec import LoraSettings, Quantization
from tests.engine.test_pack import adapted
from worker.engine.adapter import read_adapter, write_adapter

LEAVES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
TOKENS = torch.arange(1, 25)[None] * 11 % 300


def publish(base_folder: Path, folder: Path, *, rslora: bool = False) -> str:
    _, modules = adapted(base_folder, Quantization.NONE)
    renderer = Renderer.from_folder(base_folder, "2026-01-01")
    return write_adapter(
        folder,
        modules,
        base_model="tiny",
        revision="revision-1",
        lora=LoraSettings(rank=4, scale=2.0, dropout=0.25, rslora=rslora),
        template=renderer.template,
        tokenizer_json=renderer.tokenizer_json,
        manifest={"seed": 5},
    )


@pytest.mark.parametrize("rslora", [False, True])
def test_plain_peft_loads_it_and_computes_the_same(base_folder: Path, tmp_path: Path, rslora: bool) -> None:
    publish(base_folder, tmp_path / "adapter", rslora=rslora)
    model, _ = adapted(base_folder, Quantization.NONE)
    with torch.no_grad():
        ours = model(input_ids=TOKENS).logits
        base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        bare = base(input_ids=TOKENS).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=TOKENS).logits
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (bare - theirs).abs().max() > 0.1
    config = PeftConfig.from_pretrained(tmp_path / "adapter")
    # A scale of 2 at rank 4
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 4 if rslora else 8, 0.25)
    assert config.use_rslora is rslora
    assert read_adapter(tmp_path / "adapter").settings == LoraSettings(
        rank=4, scale=2.0, dropout=0.25, rslora=rslora, target_modules=tuple(sorted(LEAVES))
    )
    assert config.base_model_name_or_path == "tiny"
    names = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["target_modules"]
    assert names == LEAVES


def test_the_tokenizer_beside_it_loads_and_renders_the_frozen_template(base_folder: Path, tmp_path: Path) -> None:
    publish(base_folder, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    messages = [{"role": "user", "content": "How are you?"}]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs == Renderer.from_folder(base_folder, "2026-01-01").render_prompt(messages)
    assert tokenizer.eos_token == "<|im_end|>"


def test_equal_adapters_are_equal_files(base_folder: Path, tmp_path: Path) -> None:
    hashes = [publish(base_folder, tmp_path / name) for name in ("first", "second")]
    assert hashes[0] == hashes[1]
    weights = tmp_path / "first" / "adapter_model.safetensors"
    assert hashes[0] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert all(value.dtype == torch.float32 for value in load_file(weights).values())
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
    publish(base_folder, tmp_path / "first")  # replaces what stood there, whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_what_is_read_back_is_what_was_written(base_folder: Path, tmp_path: Path) -> None:
    sha256 = publish(base_folder, tmp_path / "adapter")
    stored = read_adapter(tmp_path / "adapter")
    _, modules = adapted(base_folder, Quantization.NONE)
    assert stored.sha256 == sha256
    assert stored.settings.scale == 2.0
    assert stored.manifest["seed"] == 5
    assert stored.template == Renderer.from_folder(base_folder, "2026-01-01").template
    weights = modules.weights()
    assert stored.tensors.keys() == weights.keys()
    assert all(torch.equal(stored.tensors[name], value) for name, value in weights.items())


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _dora(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _broken_template(folder: Path) -> None:
    (folder / "attune.json").write_text('{"template": {"no": "such field"}}')


@pytest.mark.parametrize("damage", [_cut, _dora, _no_config, _broken_template])
def test_a_damaged_or_unknown_adapter_is_refused(
    base_folder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    publish(base_folder, tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(AttuneError) as caught:
        read_adapter(tmp_path / "adapter")
    assert caught.value.code == "adapter_unreadable"


def test_a_foreign_peft_adapter_is_read_with_its_effective_scale(base_folder: Path, tmp_path: Path) -> None:
    publish(base_folder, tmp_path / "ours")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    config = json.loads((tmp_path / "ours/adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "lora_alpha": 6}))
    save_file(load_file(tmp_path / "ours/adapter_model.safetensors"), foreign / "adapter_model.safetensors")
    stored = read_adapter(foreign)
    assert stored.settings.scale == 3.0  # 6 / sqrt 4
    assert stored.template is None
    assert stored.manifest == {}
    shutil.rmtree(foreign)
