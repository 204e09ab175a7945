"""A training task from its work folder: tokenise, find the snapshot to resume from, load the base, put the adapter
on it, and run.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.errors import AttuneError, InvalidExample
from core.planning.memory_plan import Workload
from core.protocol import Message, TrainTask, WorkFolder
from core.rendering.render import Renderer
from core.spec import Execution, LoraSettings, Method, Resolved
from worker.engine import execution as machine
from worker.engine.adapter import read_adapter
from worker.engine.data import Dataset, tokenise
from worker.engine.full import FullWeights
from worker.engine.lora import DEFAULT, LoraModules, attach
from worker.engine.model import resolve_device
from worker.engine.out_of_memory import is_out_of_memory
from worker.engine.parallel import ALONE, World
from worker.engine.peak_memory import PeakMemory
from worker.engine.preference import REFERENCE, Preference
from worker.engine.prepared import Lower, Prepared
from worker.engine.randomness import seed_everything
from worker.engine.resident import Resident
from worker.engine.run import Reporter, Run
from worker.engine.snapshot import Identity, Snapshot, candidates, task_sha256


def train(
    resident: Resident,
    folder: WorkFolder,
    report: Reporter,
    stop: threading.Event,
    threads: int,
    world: World = ALONE,
) -> None:
    """Run the task of `folder` to its end, or to the next step boundary once `stop` is set.

    Raises AttuneError for what the user can change; the base in `resident` is left bare in any case.
    """
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    peak = PeakMemory(resolve_device(task.device), resident.idle_bytes, world)
    base_folder = Path(task.base_folder)
    renderer = Renderer.from_folder(base_folder, task.template_date)
    limit, method, too_long = task.resolved.max_example_tokens, task.resolved.method, task.resolved.too_long
    training = resident.tokens.get(
        folder.training, renderer, task.resolved, lambda: tokenise(folder.training, renderer, limit, method, too_long)
    )
    validation = _validation(folder, renderer, task.resolved)
    identity = Identity(task_sha256(task), training.sha256)
    snapshot = _newest_fitting(folder, identity, task.execution, report)
    workload = _workload(training, task.resolved)
    chosen = task.execution or (snapshot.manifest.execution if snapshot else machine.choose(task, workload, threads))
    chosen = world.from_first(chosen)  # cards of one machine may differ
    prepared = Prepared(task, folder, renderer, training, validation, identity, workload, peak, snapshot)
    lower = _run(resident, prepared, chosen, report, stop, world)
    while lower is not None:
        resident.release_scratch()
        peak.restart()  # what the run above this one took is no figure of this one's
        snapshot = _newest_fitting(folder, identity, lower.execution, report)
        prepared = replace(prepared, snapshot=snapshot, checkpointed=lower.checkpointed)
        lower = _run(resident, prepared, lower.execution, report, stop, world)


def _run(
    resident: Resident,
    prepared: Prepared,
    chosen: Execution,
    report: Reporter,
    stop: threading.Event,
    world: World,
) -> Lower | None:
    """None: the run has ended, or was stopped. Else what the next is to make do with: nothing of this one is left, so
    that it has the memory."""
    task = prepared.task
    torch.set_num_threads(chosen.threads)
    model = resident.base(
        Path(task.base_folder),
        task.base_revision,
        task.resolved.quantization,
        chosen.precision,
        task.device,
        double_quantization=task.resolved.double_quantization,
        dequantised=chosen.dequantised,
    )
    _check_vocabulary(model, prepared.training, prepared.validation)
    lora = task.resolved.lora
    if lora is None:
        seed_everything(task.seed)
    modules = FullWeights(model) if lora is None else _adapter(model, lora, task, prepared.folder)
    try:
        run = Run(prepared, chosen, model, modules, _preference(model, modules, task, prepared.folder), report, world)
        try:
            run.take_up()
            lower = run.prove_plan()
            return lower or _to_the_end(run, stop)
        finally:
            run.recomputed.switch(False)
    finally:
        modules.detach()
        if lora is None:
            resident.drop()  # it is no base any more


def _to_the_end(run: Run, stop: threading.Event) -> Lower | None:
    """A run whose plan is proven; where memory runs out all the same, what the next is to make do with."""
    failure: Exception | None = None
    try:
        run.begin()
        run.to_the_end(stop)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failure = error.with_traceback(None)  # its frames hold the tensors
    return None if failure is None else run.fallen(failure)


def _workload(training: Dataset, resolved: Resolved) -> Workload:
    pair = 2 if resolved.method is Method.DPO else 1
    return Workload(
        longest_tokens=pair * training.longest,
        supervised_share=training.supervised_tokens / training.tokens,
    )


def _validation(folder: WorkFolder, renderer: Renderer, resolved: Resolved) -> Dataset | None:
    if not folder.validation.exists():
        return None
    try:
        return tokenise(folder.validation, renderer, resolved.max_example_tokens, resolved.method, resolved.too_long)
    except InvalidExample as error:
        raise AttuneError(f"validation file, {error.message}", code=error.code, param="validation_file") from error


def _check_vocabulary(model: PreTrainedModel, training: Dataset, validation: Dataset | None) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(int(data.token_ids.max()) for data in (training, validation) if data is not None)
    if largest >= rows:
        raise AttuneError(
            f"the tokenizer gives token {largest}, but the base's embedding ends at {rows - 1}: they do not belong "
            "together",
            code="base_unusable",
            param="model",
        )


def _newest_fitting(
    folder: WorkFolder, identity: Identity, execution: Execution | None, report: Reporter
) -> Snapshot | None:
    for found in candidates(folder.snapshots, identity, execution):
        if isinstance(found, Snapshot):
            return found
        report(
            Message(
                level="warn",
                message=f"snapshot {found.folder.name} is not resumed from: {found.reason}",
                data={"snapshot": found.folder.name},
            )
        )
    return None


def _adapter(model: PreTrainedModel, settings: LoraSettings, task: TrainTask, folder: WorkFolder) -> LoraModules:
    """A fresh adapter, or the one that training continues from."""
    seed_everything(task.seed)
    if not folder.start_adapter.exists():
        return attach(model, settings, task.seed)
    stored = read_adapter(folder.start_adapter)
    if stored.settings.rank != settings.rank:
        raise AttuneError(
            f"the model to continue from has rank {stored.settings.rank}, this job asks for {settings.rank}; "
            "leave the rank out or give the same",
            code="rank_mismatch",
            param="hyperparameters.lora.rank",
        )
    # What B A means must not change under the trained numbers, so another scale is folded into B
    factor = stored.settings.scale / settings.scale
    tensors = {
        name: tensor * factor if name.endswith(".lora_B.weight") and factor != 1.0 else tensor
        for name, tensor in stored.tensors.items()
    }
    modules = LoraModules(model)
    try:
        modules.add(DEFAULT, settings, tensors)
    except AttuneError:
        modules.detach()
        raise
    modules.activate(DEFAULT)
    return modules


def _preference(
    model: PreTrainedModel, modules: LoraModules | FullWeights, task: TrainTask, folder: WorkFolder
) -> Preference | None:
    """What a dpo run scores its pairs with: its reference is what training begins from."""
    if task.resolved.method is not Method.DPO:
        return None
    if isinstance(modules, FullWeights):
        raise AttuneError(
            "the method dpo compares with the base, which full training overwrites; train lora",
            code="contradicting_choices",
            param="attune.training",
        )
    assert task.resolved.beta is not None
    reference = None
    if folder.start_adapter.exists():
        # From the folder and not from `modules`, which a snapshot moves on
        stored = read_adapter(folder.start_adapter)
        reference = REFERENCE
        modules.add(reference, stored.settings, stored.tensors)
    return Preference(model, modules, task.resolved.beta, reference)
