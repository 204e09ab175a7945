"""Schemathesis sends what the description allows, and what it forbids, to every operation: `make fuzz-api`, and in
parts that several processes share, the tests.

All of its checks: no 5xx, no undocumented status, kind or shape of an answer, no bad input taken, no door without key.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI

from core.ids import key_parts
from core.serving import servers
from core.settings import Settings
from tests.api.place import Place, Tenant, place, running
from tests.live import ROOT

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 100  # of each operation
# The tags of each part, a test file and so a process each; what one operation brings another is a part of its own
PARTS = {
    "answers": ("batches", "chat", "graders", "keys", "models", "sessions"),
    "data": ("doctor", "files", "health", "uploads"),
    "operators": ("operators", "webhooks"),
    "training": ("attune", "fine-tuning"),
}


def check_part(folder: Path, name: str) -> None:
    """Each operation of a part by itself. Raises AssertionError with what schemathesis found."""
    chosen = [argument for tag in PARTS[name] for argument in ("--include-tag", tag)]
    said = passed(fuzz(folder, EXAMPLES, "--phases", "examples,coverage,fuzzing", *chosen))
    expected = sum(tags <= set(PARTS[name]) for tags in operations())
    selected = re.search(r"Selected: (\d+)/\d+\s+Tested: (\d+)", said)
    assert selected is not None, said[-5000:]
    assert (int(selected[1]), int(selected[2])) == (expected, expected), "every operation"
    made = re.search(r"(\d+) generated", said)
    assert made is not None, said[-5000:]
    assert int(made[1]) > EXAMPLES * expected / 2, "operations without parameters have but one example"


def passed(done: subprocess.CompletedProcess[str]) -> str:
    """What a run without findings printed."""
    assert done.returncode == 0, done.stdout[-20_000:]
    return done.stdout


def operations() -> list[set[str]]:
    """The tags of each operation."""
    paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
    return [set(operation["tags"]) for path in paths.values() for operation in path.values()]


def fuzz(folder: Path, examples: int, *more: str) -> subprocess.CompletedProcess[str]:
    """One run against a web side of its own, with an operator's key; `folder` is empty. Output is captured."""
    settings = Settings(data_dir=folder, log_level="critical")
    with running(_generator()) as address, place(settings) as web:
        with web.database.begin() as session:
            servers.register(session, "generator", base_model=None, address=address, device=servers.EXTERNAL)
            servers.register(session, "spare", base_model="none", address=address, device=servers.EXTERNAL)
        job_id, model_id = _finished(web)
        spare = web.tenant("spare")
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        done = subprocess.run(
            [
                *command,
                f"{web.url}/openapi.json",
                "--header",
                f"Authorization: Bearer {web.operator_key}",
                "--max-examples",
                str(examples),
                *more,
            ],
            cwd=folder,
            env={
                **os.environ,
                "FUZZ_JOB": job_id,
                "FUZZ_MODEL": model_id,
                "FUZZ_KEY": key_parts(spare.key)[0],
                "FUZZ_PROJECT": spare.project_id,
                "FUZZ_ERASED": web.tenant("erased").project_id,
            },
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with web.operator as http:
            assert http.get("/v1/models").is_success, "the run has revoked its own key, and proves little"
    return done


def _finished(web: Place) -> tuple[str, str]:
    """A job of the operator's own project, and the model that it made."""
    with web.operator as http:
        project_id = http.get("/v1/attune/projects").json()["data"][0]["id"]
    job_id = Tenant(web, project_id, web.operator_key).job()
    web.prepare(job_id)
    claim = web.start(job_id)
    web.publish(claim, 3)
    return job_id, web.publish(claim, 9, final=True)


def _generator() -> FastAPI:
    """A server for every base: without one, 503 would be the only answer to a chat."""
    app = FastAPI()

    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, object]) -> dict[str, object]:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return {**head, "choices": [choice], "usage": usage}

    @app.post("/v1/completions")
    async def text(body: dict[str, object]) -> dict[str, object]:
        choice = {"index": 0, "finish_reason": "stop", "text": "fine", "logprobs": None}
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        return {**head, "choices": [choice], "usage": usage}

    return app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each operation")
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="attune-fuzz-") as folder:
        done = fuzz(Path(folder), arguments.examples, *more)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
