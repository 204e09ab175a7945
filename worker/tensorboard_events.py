"""TensorBoard's event file of a finished training, as one of the job's result files.

Written in the end from the recorded metrics, not step by step: so it holds every step once, whichever worker made
it and however often the job was resumed. `worker.tensorboard_run` does the writing.
"""

from __future__ import annotations

import json
import subprocess
import sys

from core import ids
from core.errors import AttuneError
from core.jobs import job_files
from core.models import File
from worker.attempt import Attempt
from worker.tensorboard_run import WITHOUT
from worker.tracking_program import environment


def write_events(attempt: Attempt, timeout_s: float) -> File:
    """The stored file. Raises AttuneError, OSError or SubprocessError."""
    with attempt.place.database.read() as session:
        lines = [
            json.dumps({"wall_time": at, **data}) + "\n" for at, data in job_files.metrics_of(session, attempt.job.id)
        ]
    file_id = ids.file_id()
    folder = attempt.scratch(file_id)
    done = subprocess.run(
        [sys.executable, "-m", "worker.tensorboard_run", str(folder)],
        input="".join(lines).encode(),
        capture_output=True,
        timeout=timeout_s,
        env=environment("TENSORBOARD_"),
        check=False,
    )
    if done.returncode == WITHOUT:
        raise AttuneError("the worker has no tensorboard; its operator can add it: pip install 'attune[tensorboard]'")
    if done.returncode != 0:
        raise AttuneError(f"its program ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
    [written] = folder.iterdir()
    key = f"{attempt.prefix}/results/{file_id}.tfevents"
    stored = attempt.patiently(lambda: attempt.storage.put_file(key, written))
    return File(
        id=file_id,
        project_id=attempt.job.project_id,
        # TensorBoard looks for `tfevents` in a name
        filename=f"events.out.tfevents.{int(attempt.job.created_at)}.{attempt.job.id}",
        purpose="fine-tune-results",
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        status="processed",
    )
