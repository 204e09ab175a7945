"""The plan's proof and its ladder: every rung gives the same gradients, and a lack of memory leads down it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from core.protocol import Message, Started, Step
from core.spec import Execution, LoraSettings, Quantization
from tests.engine.conftest import EXECUTION, MakeWork
from worker.engine.fitting import longest_unit, next_rung, try_pack, worst_pack
from worker.engine.lora import attach
from worker.engine.loss import Head, pack_loss
from worker.engine.model import load_base
from worker.engine.pack import Pack, Segment, pack_micro_steps
from worker.engine.recompute import Recomputed


def segment(length: int) -> Segment:
    tokens = np.random.default_rng(length).integers(3, 300, length).astype(np.uint32)
    return Segment(tokens, np.arange(length) >= length // 2, length)


def test_the_worst_pack_is_the_largest_that_any_step_can_make() -> None:
    units = [[segment(length)] for length in (700, 300, 290, 40, 30)]
    assert [len(one.token_ids) for one in worst_pack(units, 1024, 4)] == [700, 300]
    assert [len(one.token_ids) for one in worst_pack(units, 1024, 1)] == [700]
    assert [len(one.token_ids) for one in worst_pack(units, 512, 4)] == [700]
    assert longest_unit([[segment(9), segment(8)]]) == 17


def test_the_ladder_halves_micro_steps_then_recomputes_then_ends() -> None:
    execution: Execution | None = Execution(precision="float32", micro_tokens=1024, threads=1)
    seen: list[tuple[int, bool]] = []
    while execution is not None and (rung := next_rung(execution, 300)) is not None:
        execution = rung.execution
        seen.append((execution.micro_tokens, execution.checkpointing))
    assert seen == [(512, False), (256, False), (256, True)]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_rung_gives_the_same_loss_and_gradients(base_folder: Path, dropout: float) -> None:
    model = load_base(base_folder, Quantization.NF4, "float32", "cpu")
    segments = [segment(length) for length in (120, 90, 60, 30)]

    def gradients(budget: int, recomputes: bool) -> tuple[float, list[torch.Tensor]]:
        modules, recomputed = attach(model, LoraSettings(rank=4, scale=2.0, dropout=dropout), 3), Recomputed(model)
        for b in modules.parameters()[1::2]:
            torch.nn.init.normal_(b, std=0.05, generator=torch.Generator().manual_seed(5))
        recomputed.switch(recomputes)
        modules.training(True)
        torch.manual_seed(1)
        total = 0.0
        for micro in pack_micro_steps([len(one.token_ids) for one in segments], budget):
            pack = Pack.of([segments[i] for i in micro], torch.device("cpu"))
            loss, _ = pack_loss(model, Head(model), pack, 1.0 / 150)
            loss.backward()
            total += float(loss.detach())
        recomputed.switch(False)
        found = [parameter.grad for parameter in modules.parameters()]
        modules.detach()
        assert all(gradient is not None for gradient in found)
        return total, [gradient for gradient in found if gradient is not None]

    whole, expected = gradients(300, False)
    recomputed_loss, same = gradients(300, True)
    assert recomputed_loss == whole
    assert all(torch.equal(a, b) for a, b in zip(expected, same, strict=True))
    assert max(float(gradient.abs().max()) for gradient in expected) > 0
    if dropout == 0.0:  # its draws follow the order of the packs
        split_loss, split = gradients(120, False)
        assert split_loss == pytest.approx(whole, rel=1e-5)
        for a, b in zip(expected, split, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_a_trial_leaves_nothing_behind() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    assert try_pack(lambda: (parameter * torch.rand(3)).sum().backward(), [parameter], optimizer) is None
    assert parameter.grad is None
    assert torch.equal(torch.rand(1), expected)

    def fails() -> None:
        raise ValueError("no matter of memory")

    with pytest.raises(ValueError, match="no matter"):
        try_pack(fails, [parameter], optimizer)


def test_a_process_short_of_memory_goes_down_the_ladder(make_work: MakeWork) -> None:
    """The kernel refuses the allocations: the data segment may grow by so much beyond what the base takes."""
    work = make_work(examples=200, validation=0, epochs=1, batch_size=200, dropout=0.0, checkpoint_every_steps=9,
                     execution=EXECUTION.model_copy(update={"micro_tokens": 16384}))  # fmt: skip
    program = textwrap.dedent(
        """
        import os, resource, sys, threading
        from pathlib import Path
        from core.protocol import WorkFolder
        from worker.engine import train as engine
        from worker.engine.resident import Resident
        from worker.engine.run import Run

        begin = Run.begin
        def limited(run, snapshot):
            status = Path("/proc/self/status").read_text().split("VmData:")[1]
            now = int(status.split()[0]) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (now + int(sys.argv[2]), resource.RLIM_INFINITY))
            begin(run, snapshot)
        Run.begin = limited
        engine.train(Resident(), WorkFolder(Path(sys.argv[1])), lambda report: print(
            report.model_dump_json(), flush=True), threading.Event(), 1)
        os._exit(0)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(work.root), str(48 * 1024**2)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    rungs = [Message.model_validate_json(line) for line in lines if '"report":"message"' in line]
    started = [Started.model_validate_json(line) for line in lines if '"report":"started"' in line]
    steps = [Step.model_validate_json(line) for line in lines if '"report":"step"' in line]
    assert done.returncode == 0, done.stderr[-2000:]
    assert rungs, "memory was never short: nothing was at stake"
    assert all("not enough" in rung.message for rung in rungs)
    assert started[0].execution.micro_tokens == rungs[-1].data["micro_tokens"] < 16384
    assert [step.step for step in steps] == [1]
