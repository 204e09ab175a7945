"""`attune doctor`: examine a deployment from one of its machines, and say what to do about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.connection import screen
from cli.settings import settings_here
from cli.show import AsJson
from cli.up import CODE

if TYPE_CHECKING:
    from core.upkeep.checkup import Finding

CARD_S = 300.0
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: ATTUNE_DATA_DIR, or data")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Train 20 steps on the card and on the CPU, and compare.")] = False,
    device: Annotated[str, typer.Option(help="The card that --gpu tries.")] = "cuda:0",
    as_json: AsJson = False,
) -> None:
    """Examine database, storage, broker, clock, disk, versions, workers and servers, with the settings found here.

    Exit code 1 when something is wrong.
    """
    from core.upkeep import checkup  # here, since a client has no need of the service's parts

    settings = settings_here(data_dir=data)
    found: list[Finding] = []
    for finding in _all(checkup.examine(settings), device if gpu else None):
        found.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.state is checkup.State.ERROR for finding in found):
        raise typer.Exit(1)


def _all(findings: Iterator[Finding], device: str | None) -> Iterator[Finding]:
    yield from findings
    if device is not None:
        yield _card(device)


def _card(device: str) -> Finding:
    """Run the engine's own check; torch stays out of this process."""
    from core.upkeep.checkup import Finding, State

    advice = "Look at nvidia-smi and at the versions of the driver, torch and bitsandbytes; do not train on this card."
    command = [sys.executable, "-m", "worker.engine.card_check", "--device", device]
    try:
        done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, timeout=CARD_S)
    except subprocess.TimeoutExpired:
        return Finding("card", State.ERROR, f"{device} did not finish 20 steps in {CARD_S:.0f} s", advice)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return Finding("card", State.ERROR, said[-1] if said else f"exit code {done.returncode}", advice)
    seen = json.loads(done.stdout.splitlines()[-1])
    detail = (
        f"{seen['device']}: loss {seen['first_loss']:.3f} to {seen['last_loss']:.3f} in 20 NF4 steps, at most "
        f"{100 * seen['largest_gap']:.2f} % from the CPU's"
    )
    return Finding("card", State.OK if seen["ok"] else State.ERROR, detail, "" if seen["ok"] else advice)


def _show(finding: Finding) -> None:
    colour = _COLOURS[finding.state]
    screen.print(f"[{colour}]{finding.state:<8}[/{colour}] [bold]{finding.name:<12}[/bold] {escape(finding.detail)}")
    if finding.advice:
        screen.print(f"         {'':<12} {escape(finding.advice)}")
