"""Full-parameter training: its gradients are autograd's, it resumes exactly, and its folder is a base like any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.protocol import Message, SnapshotSaved, Stopped, Trained, WorkFolder
from core.rendering.render import Renderer
from core.spec import Quantization, Training
from tests.engine.conftest import MakeWork
from tests.engine.test_pack import CPU, make_segments
from tests.engine.test_train import losses, next_attempt, of_type, run, stop_after
from worker.engine.data import probe_segments
from worker.engine.full import FullWeights, full_pack_loss
from worker.engine.loss import Head, mean_loss
from worker.engine.model import load_base
from worker.engine.model_folder import read_model
from worker.engine.pack import Pack
from worker.engine.proof import prove
from worker.engine.resident import Resident

TOKENS = torch.arange(1, 25)[None] * 11 % 300


def make_full(make_work: MakeWork, name: str, **choices: object) -> WorkFolder:
    full = {"training": Training.FULL, "lora": None, "quantization": Quantization.NONE, "learning_rate": 1e-3}
    return make_work(name, **full, **choices)


def test_loss_and_every_gradient_are_those_of_transformers_on_each_example_alone(base_folder: Path) -> None:
    model = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    weights = FullWeights(model)
    segments = make_segments()
    supervised = sum(int(segment.mask.sum()) for segment in segments)
    loss, _ = full_pack_loss(model, Head(model), Pack.of(segments, CPU), 1.0 / supervised)
    loss.backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    assert "model.embed_tokens.weight" in ours  # the head shares it, so both ways into it add up

    reference = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    total = torch.zeros(())
    for segment in segments:
        ids = torch.from_numpy(segment.token_ids.astype("int64"))
        labels = ids.masked_fill(~torch.from_numpy(segment.mask), -100)
        logits = reference(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(logits[:-1], labels[1:], reduction="sum")
    total = total / supervised
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in reference.named_parameters():
        own = ours[name]
        assert own is not None
        assert parameter.grad is not None
        assert (own - parameter.grad).norm() < 1e-4 * parameter.grad.norm() + 1e-8, name
    assert len(weights.parameters()) == len(ours)
    assert mean_loss(model, segments).loss == pytest.approx(total.item(), rel=1e-5)


def test_it_resumes_exactly_and_its_folder_is_proven_and_loads_anywhere(make_work: MakeWork, base_folder: Path) -> None:
    resident = Resident()
    choices = {"examples": 18, "epochs": 4, "checkpoint_every_steps": 10}
    whole = run(resident, make_full(make_work, "whole", **choices))
    work = make_full(make_work, "parts", **choices)
    assert run(resident, work, stop_after(7))[-1] == Stopped(step=7)
    next_attempt(work)
    parts = run(Resident(), work)
    assert losses(parts) == losses(whole)[7:]
    trained = of_type(Trained, parts)[0]
    assert trained.adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256
    assert not of_type(Message, parts)
    assert of_type(SnapshotSaved, whole)

    # The base on disk, and the one that the next job gets, are as they were
    tuned = AutoModelForCausalLM.from_pretrained(work.adapter, dtype=torch.float32)
    with torch.no_grad():
        bare = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)(input_ids=TOKENS).logits
        base = resident.base(base_folder, "revision-1", Quantization.NONE, "float32", "cpu")
        assert torch.allclose(base(input_ids=TOKENS).logits, bare, atol=1e-5)
        assert (tuned(input_ids=TOKENS).logits - bare).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(work.adapter).eos_token == "<|im_end|>"
    assert json.loads((work.adapter / "config.json").read_text()) == json.loads(
        (base_folder / "config.json").read_text()
    )
    assert read_model(work.adapter).renderer.template == Renderer.from_folder(base_folder, "2026-01-01").template
    assert load_file(work.adapter / "model.safetensors").keys() == load_file(base_folder / "model.safetensors").keys()

    shutil.copytree(work.adapter, work.published)
    (work.root / "trained.json").write_text(trained.model_dump_json())
    proof = prove(resident, work)
    assert proof.passed, proof
    assert proof.validation_loss_server == pytest.approx(trained.final_valid_loss, rel=2e-2)

    tensors = load_file(work.published / "model.safetensors")
    name = next(name for name in tensors if "q_proj" in name)
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, work.published / "model.safetensors")
    faults = {check.name for check in prove(resident, work).checks if not check.passed}
    assert {"loads", "every_tensor_mapped"} <= faults
    assert "template_hash" not in faults


def test_a_bfloat16_base_stays_one_and_what_is_measured_is_what_is_published(
    make_work: MakeWork, base_folder: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(base_folder, half)
    tensors = load_file(half / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in tensors.items()}, half / "model.safetensors", {"format": "pt"})
    work = make_full(make_work, "work", base=half, epochs=1)
    trained = of_type(Trained, run(Resident(), work))[0]
    stored = load_file(work.adapter / "model.safetensors")
    assert all(value.dtype == torch.bfloat16 for value in stored.values())
    model = load_base(work.adapter, Quantization.NONE, "float32", "cpu")
    probe = probe_segments(work, read_model(work.adapter).renderer, 256)
    assert mean_loss(model, probe).loss == pytest.approx(trained.final_valid_loss, rel=1e-5)
