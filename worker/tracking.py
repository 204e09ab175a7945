"""A job's integrations: programs of their own that hear of the steps, and whose failure is a warning.

Nothing here waits for them while the job trains: steps go into a queue, and only the end of the training gives the
runs some seconds to arrive. TensorBoard's file is written then, from the metrics that the job has recorded.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import Any

from core.errors import AttuneError
from core.jobs import claims
from core.jobs.jobs import NewEvent
from core.models import File
from core.protocol import Step
from worker.attempt import Attempt
from worker.tensorboard_events import write_events
from worker.tracking_program import TrackingProgram

FINISH_S = 20.0  # for the last steps to arrive
ABANDON_S = 3.0  # the same when the attempt is over already
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class _Service:
    module: str
    prefix: str  # of its environment variables, which are the operator's
    arrival: str  # what the user is told, from the program's answer


SERVICES = {
    "wandb": _Service(
        "worker.wandb_run", "WANDB_", "Metrics go to Weights & Biases: project {project}, run {run_id}"
    ),
    "mlflow": _Service("worker.mlflow_run", "MLFLOW_", "Metrics go to MLflow: experiment {experiment}, run {run_id}"),
}  # fmt: skip


class Tracking:
    """The integrations of one attempt. `start`, then `step` and `look` while it trains, then `finish` and
    `result_files`, or `abandon`."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        request = attempt.job.request
        asked = [*(request.get("integrations") or ()), *(request.get("attune_integrations") or ())]
        self._asked: list[dict[str, Any]] = [dict(one) for one in asked]
        self._runs: dict[int, TrackingProgram] = {}  # by place in `_asked`; a failed one is taken out

    @property
    def integrations(self) -> list[dict[str, Any]] | None:
        """As asked for, with what became of each, for the job's echo."""
        return self._asked or None

    def start(self) -> None:
        for place, integration in enumerate(self._asked):
            service = SERVICES.get(integration["type"])
            if service is None:
                continue  # a file, made in the end
            log_file = self._attempt.scratch("integrations.log")
            try:
                request = self._request(integration, place)
                self._runs[place] = TrackingProgram(service.module, service.prefix, log_file, request)
            except (OSError, AttuneError) as error:
                self._warn(place, str(error))

    def _request(self, integration: dict[str, Any], place: int) -> dict[str, Any]:
        """For both services: where to, under which name, and what the run is about."""
        job, settings = self._attempt.job, self._attempt.place.settings
        choice = integration[integration["type"]]
        request: dict[str, Any] = {
            "run_id": job.id if place == 0 else f"{job.id}-{place}",  # the same for every attempt
            "config": {**self._attempt.resolved.model_dump(mode="json"), "model": job.model, "seed": job.seed},
        }
        own = ("attune/finetune", f"attune/{job.base_model}", f"attune/{job.id}")
        if integration["type"] == "wandb":
            return {
                **request,
                "project": choice["project"],
                "entity": choice.get("entity"),
                "name": choice.get("name") or job.id,
                "tags": [*(choice.get("tags") or ()), *own],
                "folder": str(settings.data_dir.resolve()),
            }
        tracking_uri = choice.get("tracking_uri") or settings.mlflow_tracking_uri
        if not tracking_uri:
            raise AttuneError(
                "the worker knows no MLflow server; name one as tracking_uri, or have the operator set "
                "ATTUNE_MLFLOW_TRACKING_URI"
            )
        return {
            **request,
            "tracking_uri": tracking_uri,
            "experiment": choice.get("experiment") or f"attune-{self._attempt.inputs.organization}",
            "run_name": choice.get("run_name") or job.id,
            "tags": {"attune.job": job.id, "attune.base_model": job.base_model},
        }

    def step(self, step: Step) -> None:
        for run in self._runs.values():
            run.send(step.model_dump(exclude={"report", "peak_memory_bytes"}, exclude_none=True))

    def look(self) -> None:
        """Write what the programs have said since: the run for the job's echo, or a warning."""
        for place, run in list(self._runs.items()):
            for answer in run.answers():
                if "error" in answer:
                    del self._runs[place]
                    self._warn(place, answer["error"])
                    break
                kind = self._asked[place]["type"]
                self._asked[place] = {"type": kind, kind: {**self._asked[place][kind], **answer}}
                event = NewEvent(SERVICES[kind].arrival.format(**answer), data=answer)
                self._attempt.write(
                    lambda session, event=event: claims.report(
                        session, self._attempt.claim, [event], integrations=self.integrations
                    )
                )

    def finish(self) -> None:
        """The training is over: let the runs arrive."""
        deadline = time.monotonic() + FINISH_S
        for run in self._runs.values():
            run.send({"trained": True})
            run.end()
        for place, run in list(self._runs.items()):
            if not run.wait(max(0.0, deadline - time.monotonic())):
                run.kill()
                self._warn(place, f"it took longer than {FINISH_S:.0f} s to take the last metrics")
                del self._runs[place]
        self.look()
        self._runs.clear()

    def result_files(self) -> list[File]:
        """What integrations leave for download, stored and not yet rows."""
        files: list[File] = []
        for place, integration in enumerate(self._asked):
            if integration["type"] != TENSORBOARD:
                continue
            try:
                file = write_events(self._attempt, FINISH_S)
            except (OSError, subprocess.SubprocessError, AttuneError) as error:
                self._warn(place, str(error))
                continue
            files.append(file)
            echo = {"file_id": file.id, "filename": file.filename}
            self._asked[place] = {"type": TENSORBOARD, TENSORBOARD: echo}
        return files

    def abandon(self) -> None:
        """The attempt is over, however it ended, and can write no more."""
        deadline = time.monotonic() + ABANDON_S
        for run in self._runs.values():
            run.end()
        for run in self._runs.values():
            if not run.wait(max(0.0, deadline - time.monotonic())):
                run.kill()
        self._runs.clear()

    def _warn(self, place: int, why: str) -> None:
        kind = self._asked[place]["type"]
        self._attempt.tell(f"The integration {kind} failed, and the job goes on without it: {why}", level="warn")
