"""A job's integrations: each a program of its own that hears of the steps, and whose failure is a warning.

Nothing here waits for it while the job trains: steps go into a queue, and only the end of the training gives the
run some seconds to arrive.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from core import claims
from core.jobs import NewEvent
from core.protocol import Step
from worker.attempt import Attempt

FINISH_S = 20.0  # for the last steps to arrive
ABANDON_S = 3.0  # the same when the attempt is over already
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
              "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
              "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # fmt: skip


class Tracking:
    """The integrations of one attempt. `start`, then `step` and `look` while it trains, then `finish` or `abandon`."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._asked: list[dict[str, Any]] = [dict(one) for one in attempt.job.request.get("integrations") or []]
        self._runs: dict[int, _Run] = {}  # by place in `_asked`; a failed one is taken out

    def start(self) -> None:
        for place, integration in enumerate(self._asked):
            try:
                self._runs[place] = _Run(self._attempt, self._request(integration["wandb"], place))
            except OSError as error:
                self._warn(place, str(error))

    def _request(self, choice: dict[str, Any], place: int) -> dict[str, Any]:
        job = self._attempt.job
        own = ("attune/finetune", f"attune/{job.base_model}", f"attune/{job.id}")
        return {
            "project": choice["project"],
            "entity": choice.get("entity"),
            "name": choice.get("name") or job.id,
            "tags": [*(choice.get("tags") or ()), *own],
            "run_id": job.id if place == 0 else f"{job.id}-{place}",  # the same for every attempt
            "config": {**self._attempt.resolved.model_dump(mode="json"), "model": job.model, "seed": job.seed},
            "folder": str(self._attempt.place.settings.data_dir.resolve()),
        }

    def step(self, step: Step) -> None:
        for run in self._runs.values():
            run.send(step.model_dump(exclude={"report"}, exclude_none=True))

    def look(self) -> None:
        """Write what the programs have said since: the run for the job's echo, or a warning."""
        for place, run in list(self._runs.items()):
            for answer in run.answers():
                if "error" in answer:
                    del self._runs[place]
                    self._warn(place, answer["error"])
                    break
                self._asked[place] = {"type": "wandb", "wandb": {**self._asked[place]["wandb"], **answer}}
                text = f"Metrics go to Weights & Biases: project {answer['project']}, run {answer['run_id']}"
                event = NewEvent(text, data=answer)
                self._attempt.write(
                    lambda session, event=event: claims.report(
                        session, self._attempt.claim, [event], integrations=self._asked
                    )
                )

    def finish(self) -> None:
        """The training is over: let the runs arrive."""
        deadline = time.monotonic() + FINISH_S
        for run in self._runs.values():
            run.end()
        for place, run in list(self._runs.items()):
            if not run.wait(max(0.0, deadline - time.monotonic())):
                run.kill()
                self._warn(place, f"it took longer than {FINISH_S:.0f} s to take the last metrics")
                del self._runs[place]
        self.look()
        self._runs.clear()

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


class _Run:
    """One program, its queue of lines, and what it answered."""

    def __init__(self, attempt: Attempt, request: dict[str, Any]) -> None:
        environment = {
            name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("WANDB_")
        }
        with attempt.scratch("integrations.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.wandb_run"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="integration-answers", daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, name="integration-steps", daemon=True).start()
        self.send(request)

    def send(self, message: dict[str, Any]) -> None:
        self._lines.put(json.dumps(message).encode() + b"\n")

    def answers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with suppress(queue.Empty):
            while True:
                found.append(self._answers.get_nowait())
        return found

    def end(self) -> None:
        self._lines.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Has it ended, and all it said been read?"""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(1.0)
        return True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes of its own
        self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin is not None
        # a program that has died takes no lines; its reader says so
        with suppress(OSError), self._process.stdin as stdin:
            while (line := self._lines.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        refused = False
        with self._process.stdout as stdout:
            for line in stdout:
                answer = json.loads(line)
                refused = refused or "error" in answer
                self._answers.put(answer)
        code = self._process.wait()
        if code != 0 and not refused:
            self._answers.put({"error": f"its program ended with {code}"})
