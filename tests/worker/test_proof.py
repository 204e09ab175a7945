"""The proof passes for what the engine trained, and fails for every way in which an adapter can be wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.protocol import Proof, WorkFolder
from core.rendering.render import Renderer
from tests.worker.trained import TrainedJob
from worker.engine.adapter import write_adapter
from worker.engine.data import probe_segments
from worker.engine.lora import LoraLinear, attach
from worker.engine.loss import Head, mean_loss, pack_loss
from worker.engine.optimizer import make_optimizer
from worker.engine.pack import Pack, Segment
from worker.engine.proof import prove

WEIGHTS = "adapter_model.safetensors"


def failed(proof: Proof) -> dict[str, str]:
    """{check: what it saw} of those that did not pass; every check was made, once."""
    names = ["changes_logits", "end_token", "every_tensor_mapped", "loads", "template_hash", "validation_loss"]
    assert sorted(check.name for check in proof.checks) == names
    found = {check.name: check.detail for check in proof.checks if not check.passed}
    assert proof.passed == (not found)
    return found


def is_bare(job: TrainedJob) -> bool:
    task = job.task
    model = job.resident.base(job.base, task.base_revision, task.resolved.quantization, "float32", "cpu")
    return not any(isinstance(module, LoraLinear) for module in model.modules())


def state_trained(folder: WorkFolder, **changes: object) -> None:
    """Let trained.json say something else, so that one fault is seen alone."""
    path = folder.root / "trained.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: WorkFolder, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the published tensors, and let the trainer have written just these."""
    path = folder.published / WEIGHTS
    save_file(change(load_file(path)), path, {"format": "pt"})
    state_trained(folder, adapter_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_was_trained_is_proven(job: TrainedJob) -> None:
    proof = prove(job.resident, job.folder)
    assert failed(proof) == {}
    assert proof.validation_loss_trainer == job.trained.final_valid_loss
    assert proof.validation_loss_server == pytest.approx(job.trained.final_valid_loss, abs=1e-4)
    assert proof.max_logit_change is not None
    assert proof.max_logit_change > 1.0
    assert is_bare(job)


def test_an_adapter_of_zeros_changes_nothing(job: TrainedJob, tmp_path: Path) -> None:
    folder = job.copy(tmp_path / "work")
    rewrite(folder, lambda tensors: {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    proof = prove(job.resident, folder)
    assert {"changes_logits", "validation_loss"} <= failed(proof).keys()
    assert proof.max_logit_change == 0.0
    assert is_bare(job)


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("layers.1.mlp.up_proj", "layers.1.mlp.up_projection"): t for name, t in tensors.items()}


def _without_a_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj" not in name}


def _without_a_partner(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("layers.1.mlp.up_proj.lora_B.weight")}


def _of_another_shape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[..., :-1].contiguous() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_renamed, "map to no linear"),
        (_without_a_layer, "have no tensors, such as model.layers.1.mlp.up_proj"),
        (_without_a_partner, "lora_B.weight is missing"),
        (_of_another_shape, "has shape"),
    ],
)
def test_a_tensor_that_does_not_map_is_seen(
    job: TrainedJob,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    says: str,
) -> None:
    folder = job.copy(tmp_path / "work")
    rewrite(folder, change)
    assert says in failed(prove(job.resident, folder))["every_tensor_mapped"]
    assert is_bare(job)


def test_another_scale_is_seen(job: TrainedJob, tmp_path: Path) -> None:
    folder = job.copy(tmp_path / "work")
    path = folder.published / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 8}))
    assert "scale 1 instead of 8 and 2" in failed(prove(job.resident, folder))["every_tensor_mapped"]


def test_another_template_is_seen(job: TrainedJob, tmp_path: Path) -> None:
    folder = job.copy(tmp_path / "work")
    path = folder.published / "attune.json"
    manifest = json.loads(path.read_text())
    manifest["template"]["chat_template"] = manifest["template"]["chat_template"].replace("\\n", "  ")
    path.write_text(json.dumps(manifest))
    assert "instead of" in failed(prove(job.resident, folder))["template_hash"]


def test_another_validation_loss_is_seen(job: TrainedJob, tmp_path: Path) -> None:
    folder = job.copy(tmp_path / "work")
    for loss in (job.trained.final_valid_loss + 0.05, float("nan")):
        state_trained(folder, final_valid_loss=loss)
        assert failed(prove(job.resident, folder)).keys() == {"validation_loss"}


def test_an_end_token_that_was_never_learned_is_seen(job: TrainedJob, tmp_path: Path) -> None:
    """The same data, steps and rates, but no loss on the tokens that end an answer."""
    folder = job.copy(tmp_path / "work")
    train_without_end_tokens(job, folder)
    found = failed(prove(job.resident, folder))
    assert found.keys() == {"end_token"}
    assert "none of" in found["end_token"]


def train_without_end_tokens(job: TrainedJob, folder: WorkFolder) -> None:
    task, resolved = job.task, job.task.resolved
    model = job.resident.base(job.base, task.base_revision, resolved.quantization, "float32", "cpu")
    renderer = Renderer.from_folder(job.base, task.template_date)
    probe = probe_segments(folder, renderer, resolved.max_example_tokens)
    modules = attach(model, resolved.lora, task.seed)
    stops = list(renderer.template.stop_ids)
    endless = [Segment(segment.token_ids, segment.mask & ~np.isin(segment.token_ids, stops)) for segment in probe]
    optimizer = make_optimizer(modules.parameters(), resolved)
    pack = Pack.of(endless, model.device)
    for _ in range(resolved.total_steps):
        loss, _ = pack_loss(model, Head(model), pack, 1.0 / len(pack.rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.rmtree(folder.published)
    sha256 = write_adapter(
        folder.published,
        modules,
        base_model=task.base_model,
        revision=task.base_revision,
        lora=resolved.lora,
        template=renderer.template,
        tokenizer_json=(job.base / "tokenizer.json").read_bytes(),
        manifest={},
    )
    state_trained(folder, adapter_sha256=sha256, final_valid_loss=mean_loss(model, probe).loss)
    modules.detach()


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "attune.json", "adapter_config.json"])
@pytest.mark.parametrize("left", [0.5, 0.0, None])
def test_a_file_cut_short_or_lost_is_seen(job: TrainedJob, tmp_path: Path, name: str, left: float | None) -> None:
    folder = job.copy(tmp_path / "work")
    path = folder.published / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    found = failed(prove(job.resident, folder))
    assert "cannot be read" in found["loads"]
    assert "not measured" in found["changes_logits"]
    assert is_bare(job)


def test_weights_of_another_run_are_seen(job: TrainedJob, tmp_path: Path) -> None:
    folder = job.copy(tmp_path / "work")
    state_trained(folder, adapter_sha256="0" * 64)
    assert "but the trainer wrote 0000" in failed(prove(job.resident, folder))["loads"]
