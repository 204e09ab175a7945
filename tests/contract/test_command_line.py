"""`openai api fine_tuning.jobs.…`, the command line that the package had until 2.34.0 (C37)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, Project

# Newer generations have none: there, this file holds no test
if importlib.util.find_spec("openai.cli") is not None:

    def call(project: Project, command: str, *arguments: str) -> Any:
        program = [sys.executable, "-m", "openai", "-b", f"{project.url}/", "-k", project.key]
        done = subprocess.run(
            [*program, "api", f"fine_tuning.jobs.{command}", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "NO_PROXY": "*"},
        )
        assert done.stdout, done.stderr  # it ends with 0 whatever happened
        return json.loads(done.stdout)

    def test_c37_the_command_line_creates_and_cancels(project: Project, client: OpenAI, training_file: str) -> None:
        choices = '{"n_epochs": 50, "batch_size": 4}'  # longer than the command line takes to start again
        job = call(project, "create", "-m", BASE, "-F", training_file, "-H", choices, "-s", "by-hand")
        assert (job["object"], job["training_file"]) == ("fine_tuning.job", training_file)
        assert job["hyperparameters"]["n_epochs"] == 50
        assert call(project, "cancel", "-i", job["id"])["status"] in ("cancelled", "running")
        assert call(project, "list", "-l", "1")["data"][0]["id"] == job["id"]
        assert client.fine_tuning.jobs.retrieve(job["id"]).id == job["id"]

    def test_c37_the_command_line_reads(project: Project, trained: FineTuningJob) -> None:
        assert call(project, "retrieve", "-i", trained.id)["fine_tuned_model"] == trained.fine_tuned_model
        events = call(project, "list_events", "-i", trained.id, "-l", "5")
        assert len(events["data"]) == 5
        assert events["data"][0]["message"] == "The job has successfully completed"
