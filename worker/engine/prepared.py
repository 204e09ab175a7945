"""What a run is made from, and what one that found too little memory leaves to the next."""

from __future__ import annotations

from dataclasses import dataclass

from core.planning.memory_plan import Workload
from core.protocol import TrainTask, WorkFolder
from core.rendering.render import Renderer
from core.spec import Execution
from worker.engine.data import Dataset
from worker.engine.peak_memory import PeakMemory
from worker.engine.snapshot import Identity, Snapshot


@dataclass(frozen=True)
class Prepared:
    """A task with its data read: what a run is made from, however the device will hold the base."""

    task: TrainTask
    folder: WorkFolder
    renderer: Renderer
    training: Dataset
    validation: Dataset | None
    identity: Identity
    workload: Workload  # that its memory is planned for
    peak: PeakMemory
    snapshot: Snapshot | None  # to go on from
    checkpointed: int = 0  # step of the last checkpoint that this attempt has told of


@dataclass(frozen=True)
class Lower:
    """What a run that found too little memory leaves to the next."""

    execution: Execution
    checkpointed: int
