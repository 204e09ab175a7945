"""The same adapter over its base held in 16, 8 and 4 bit: what quantisation costs this very job.

https://arxiv.org/abs/2305.14314, section 4, asks the same of models; perplexity is exp(nats per supervised token).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from core.protocol import TrainTask
from core.spec import Quantization
from worker.engine.adapter import StoredAdapter
from worker.engine.lora import DEFAULT, LoraModules
from worker.engine.model import Precision
from worker.engine.pack import Segment
from worker.engine.resident import Resident
from worker.engine.served_loss import mean_loss_served

COMPARED = (Quantization.NONE, Quantization.INT8, Quantization.NF4)


def perplexities(
    resident: Resident, task: TrainTask, adapter: StoredAdapter, precision: Precision, segments: Sequence[Segment]
) -> dict[Quantization, float | None]:
    """By how the base is held; None where the device's memory was not enough. `resident` is left empty."""
    found: dict[Quantization, float | None] = {}
    for quantization in COMPARED:
        try:
            found[quantization] = _perplexity(resident, task, adapter, quantization, precision, segments)
        except (torch.OutOfMemoryError, MemoryError):
            found[quantization] = None
        resident.drop()
    return found


def _perplexity(
    resident: Resident,
    task: TrainTask,
    adapter: StoredAdapter,
    quantization: Quantization,
    precision: Precision,
    segments: Sequence[Segment],
) -> float:
    model = resident.base(Path(task.base_folder), task.base_revision, quantization, precision, task.device)
    modules = LoraModules(model)
    try:
        modules.add(DEFAULT, adapter.settings, adapter.tensors)
        modules.activate(DEFAULT)
        return math.exp(mean_loss_served(model, segments))
    finally:
        modules.detach()
