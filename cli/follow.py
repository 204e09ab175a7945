"""Follow a job to its end: the events that matter as lines, the steps as a progress bar.

Reads nothing but the job and its events through the `openai` client, as any other program could.
"""

from __future__ import annotations

import time

from openai import BaseModel, OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ENDED = ("succeeded", "failed", "cancelled")
POLL_S = 0.5
PATIENT_RETRIES = 10  # about a minute: a service that is restarted meanwhile is waited for
_PAGE = 100  # events at once
_STYLES = {"warn": "yellow", "error": "red"}
_QUIET_FRACTION = 0.1  # without a terminal there is a line for each tenth of the steps


class Metrics(BaseModel):
    """What a metrics event carries of a step."""

    step: int
    total_steps: int
    train_loss: float
    valid_loss: float | None = None
    full_valid_loss: float | None = None
    tokens_per_s: float | None = None


def follow(client: OpenAI, job_id: str, console: Console) -> FineTuningJob:
    """Show the job's progress until it has ended; the job as it ended."""
    view = _View(console)
    last_event: str | None = None
    job = client.fine_tuning.jobs.retrieve(job_id)
    client = client.with_options(max_retries=PATIENT_RETRIES)
    with view.progress:
        while True:
            for event in _new_events(client, job_id, last_event):
                view.show(event)
                last_event = event.id
            if job.status in ENDED:
                view.finish()
                return job
            time.sleep(POLL_S)
            # before the events: those that are read after a job's end are all of them
            job = client.fine_tuning.jobs.retrieve(job_id)


def _new_events(client: OpenAI, job_id: str, known: str | None) -> list[FineTuningJobEvent]:
    """The events after the event `known`, oldest first."""
    found: list[FineTuningJobEvent] = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=_PAGE):  # newest first, page by page
        if event.id == known:
            break
        found.append(event)
    return found[::-1]


class _View:
    """A bar on a terminal; lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.progress.add_task("step", visible=False, total=None, loss="-", speed="-")
        self._said_at_step = 0

    def show(self, event: FineTuningJobEvent) -> None:
        if event.type != "metrics":
            self.say(event.message, _STYLES.get(event.level, ""))
            return
        metrics = Metrics.model_validate(event.data)
        validation = metrics.full_valid_loss if metrics.full_valid_loss is not None else metrics.valid_loss
        if self.console.is_terminal:
            speed = f"{metrics.tokens_per_s:,.0f}" if metrics.tokens_per_s else "-"
            self.progress.update(
                self._task,
                visible=True,
                completed=metrics.step,
                total=metrics.total_steps,
                loss=f"{metrics.train_loss:.3f}",
                speed=speed,
            )
            if validation is not None:
                self.say(f"Step {metrics.step}: validation loss {validation:.3f}", "")
        elif (
            validation is not None
            or metrics.step == metrics.total_steps
            or metrics.step - self._said_at_step >= _QUIET_FRACTION * metrics.total_steps
        ):
            self.say(event.message, "")
            self._said_at_step = metrics.step

    def say(self, line: str, style: str) -> None:
        self.progress.console.print(escape(line), style=style, soft_wrap=True)

    def finish(self) -> None:
        self.progress.stop_task(self._task)
