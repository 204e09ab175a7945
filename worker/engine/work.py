"""Carries out commands one after another, and turns what goes wrong into a Failed with a kind and a code.

A user's mistake leaves the engine warm. After an error of ours or a lack of memory its state is not to be
trusted: it reports and ends, and the runner starts another.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from core.errors import AttuneError
from core.protocol import Exit, Failed, Prove, Ready, WorkFolder
from worker.engine import execution as machine
from worker.engine.commands import Commands, Reports, Work
from worker.engine.model import resolve_device
from worker.engine.out_of_memory import is_out_of_memory
from worker.engine.proof import prove
from worker.engine.resident import Resident
from worker.engine.snapshot import library_versions
from worker.engine.train import train


def work(commands: Commands, reports: Reports, threads: int, device: str) -> int:
    """Say Ready, then serve until Exit. The exit status."""
    target = resolve_device(device)
    torch.set_num_threads(threads)
    reports(
        Ready(
            device=str(target),
            device_name=machine.device_name(target),
            memory_bytes=machine.device_memory_bytes(target),
            versions=library_versions(),
        )
    )
    resident = Resident()
    while True:
        item = commands.next()
        if isinstance(item.command, Exit):
            return 0
        failure = _carry_out(item, resident, reports, threads)
        resident.release_scratch()
        if failure is not None:
            reports(failure)
            if failure.kind != "user":
                return 1


def _carry_out(item: Work, resident: Resident, reports: Reports, threads: int) -> Failed | None:
    """Run one command; what made it fail, if anything."""
    assert not isinstance(item.command, Exit)
    try:
        folder = WorkFolder(Path(item.command.folder))
        if isinstance(item.command, Prove):
            reports(prove(resident, folder))
        else:
            train(resident, folder, reports, item.stop, threads)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return as_failure(error)
    return None


def as_failure(error: Exception) -> Failed:
    """The report for an error: the user's, a lack of memory, or ours."""
    if isinstance(error, AttuneError):
        return Failed(kind="user", code=error.code or "invalid", message=error.message, param=error.param)
    text = str(error)
    if is_out_of_memory(error):
        return Failed(
            kind="out_of_memory",
            code="out_of_memory",
            message="the device's memory was not enough for this job; shorten the longest examples, lower the rank, "
            f"use quantization nf4, or train a smaller base ({text.splitlines()[0] if text else 'no detail'})",
        )
    return Failed(kind="internal", code="internal", message=f"{type(error).__name__}: {text}")
