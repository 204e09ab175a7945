"""Carries out commands one after another, and turns what goes wrong into a Failed with a kind and a code.

A user's mistake leaves the engine warm. After an error of ours or a lack of memory its state is not to be
trusted: it reports and ends, and the runner starts another.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch
from pydantic import BaseModel

from core.errors import AttuneError
from core.protocol import Exit, Failed, Prove, Ready, WorkFolder
from worker.engine import execution as machine
from worker.engine.commands import Commands, Reports, Work
from worker.engine.model import resolve_device
from worker.engine.out_of_memory import is_out_of_memory
from worker.engine.parallel import World
from worker.engine.proof import prove
from worker.engine.resident import Resident
from worker.engine.snapshot import library_versions
from worker.engine.train import train


def work(commands: Commands, reports: Reports, threads: int, device: str, cache: Path | None = None) -> int:
    """Say Ready, then serve until Exit. The exit status."""
    world = World.joined()
    target = resolve_device(device)
    torch.set_num_threads(threads)
    ready = Ready(
        device=str(target),
        device_name=machine.device_name(target),
        memory_bytes=machine.device_memory_bytes(target),
        versions=library_versions(),
    )
    if world.first:
        reports(ready)
    resident = Resident(cache)
    while True:
        item = _next(commands, world)
        if isinstance(item.command, Exit):
            return 0
        failure = _carry_out(item, resident, reports, threads, world)
        resident.release_scratch()
        if failure is not None:
            if world.first:
                reports(failure)
            if failure.kind != "user":
                return 1


def _next(commands: Commands, world: World) -> Work:
    """What the first process reads, all do; a Stop reaches it alone, and its word on that the others."""
    item = commands.next() if world.first else None
    command = world.from_first(item and item.command)
    assert command is not None
    return item or Work(command)


def _say_nothing(_: BaseModel) -> None:
    """Reports are the first process's."""


def _carry_out(item: Work, resident: Resident, reports: Reports, threads: int, world: World) -> Failed | None:
    """Run one command; what made it fail, if anything."""
    assert not isinstance(item.command, Exit)
    try:
        folder = WorkFolder(Path(item.command.folder))
        if isinstance(item.command, Prove):
            if world.first:
                reports(prove(resident, folder))
        else:
            train(resident, folder, reports if world.first else _say_nothing, item.stop, threads, world)
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
