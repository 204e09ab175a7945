"""`python -m worker.wandb_run`: one job's run at Weights & Biases. The request and then steps come as JSON lines.

A program of its own, since it may hang on a network, install handlers and print: the job it reports of must not
notice. It answers with one JSON line: what the run became, or why there is none. The end of stdin ends the run.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from worker.tracking_program import without_secrets

START_S = 60.0  # for the service to answer


def main() -> int:
    # whatever prints to stdout goes to the log: fd 1 is the answer's
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    try:
        import wandb
    except ImportError:
        return _refuse(answers, "the worker has no wandb; its operator can add it: pip install 'attune[wandb]'")
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=START_S
    )
    try:
        run = wandb.init(
            project=request["project"],
            entity=request["entity"],
            name=request["name"],
            tags=[tag[:64] for tag in request["tags"]],  # the service takes no longer ones
            id=request["run_id"],
            resume="allow",  # an attempt that goes on after another continues its run
            config=request["config"],
            dir=request["folder"],
            settings=settings,
        )
    except Exception as error:  # whatever the service, the network or the library says is the user's to read
        return _refuse(answers, f"{type(error).__name__}: {error}")
    print(json.dumps({"project": run.project, "entity": run.entity or None, "run_id": run.id}), file=answers)
    trained = False
    for line in sys.stdin:
        step = json.loads(line)
        if "trained" in step:
            trained = True
        else:
            run.log(step, step=step["step"])
    run.finish(exit_code=0 if trained else 1)
    return 0


def _refuse(answers: TextIO, why: str) -> int:
    print(json.dumps({"error": without_secrets(why)[:500]}), file=answers)
    return 1


if __name__ == "__main__":
    sys.exit(main())
