"""What a run publishes at a checkpoint and at its end: an adapter's folder, or a model's where all was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from core.protocol import TrainTask
from core.rendering.render import Renderer
from worker.engine.adapter import JsonValue, write_adapter
from worker.engine.full import FullWeights, stored_dtype
from worker.engine.lora import LoraModules
from worker.engine.model_folder import write_model


def write_result(
    folder: Path,
    task: TrainTask,
    model: PreTrainedModel,
    modules: LoraModules | FullWeights,
    renderer: Renderer,
    manifest: Mapping[str, JsonValue],
) -> str:
    """Publish what `modules` hold as `folder`; the hash of the weights' file."""
    base_folder = Path(task.base_folder)
    if isinstance(modules, FullWeights):
        return write_model(
            folder,
            model,
            stored_dtype(base_folder),
            base_folder=base_folder,
            base_model=task.base_model,
            revision=task.base_revision,
            template=renderer.template,
            manifest=manifest,
        )
    assert task.resolved.lora is not None
    return write_adapter(
        folder,
        modules,
        base_model=task.base_model,
        revision=task.base_revision,
        lora=task.resolved.lora,
        template=renderer.template,
        tokenizer_json=(base_folder / "tokenizer.json").read_bytes(),
        manifest=manifest,
    )
