"""`python -m worker.mlflow_run`: one job's run at MLflow. The request and then steps come as JSON lines.

A program of its own, as `worker.wandb_run` is. It answers with one JSON line: what the run became, or why there is
none. The end of stdin ends the run, which a later attempt at the job takes up again.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from worker.tracking_program import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Where the operator has not said otherwise: the library's own patience is minutes
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
_RUN_TAG = "attune.run"  # MLflow gives out its own run ids; this one finds the run again
MAX_METRICS = 1000  # of one request, by MLflow's REST API
MAX_PARAM = 500  # characters, of every store


def main() -> int:
    # whatever prints to stdout goes to the log: fd 1 is the answer's
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.environ.update({name: value for name, value in _PATIENCE.items() if name not in os.environ})
    request = json.loads(sys.stdin.readline())
    try:
        from mlflow import MlflowClient
    except ImportError:
        return _refuse(answers, "the worker has no mlflow; its operator can add it: pip install 'attune[mlflow]'")
    try:
        client = MlflowClient(tracking_uri=request["tracking_uri"])
        experiment = _experiment(client, request["experiment"])
        run = _run(client, experiment, request)
        known = _last_step(client, run.info.run_id)
        uri = request["tracking_uri"]
        # the operator's own may be a path of this machine, or hold a password
        shown = {"tracking_uri": uri} if uri.startswith("http") and "@" not in uri else {}
        became = {"experiment": experiment.name, "experiment_id": experiment.experiment_id}
        print(json.dumps({**shown, **became, "run_id": run.info.run_id, "run_name": run.info.run_name}), file=answers)
        trained = False
        for steps in _batches():
            trained = trained or any("trained" in step for step in steps)
            _log(client, run.info.run_id, [step for step in steps if step.get("step", known) > known])
        client.set_terminated(run.info.run_id, "FINISHED" if trained else "KILLED")
    except Exception as error:  # whatever the server, the network or the library says is the user's to read
        return _refuse(answers, f"{type(error).__name__}: {error}")
    return 0


def _experiment(client: MlflowClient, name: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another job was first
            if found is None:
                raise
    return found


def _run(client: MlflowClient, experiment: Experiment, request: dict[str, Any]) -> Run:
    from mlflow.entities import Param

    same = f"tags.`{_RUN_TAG}` = '{request['run_id']}'"
    found = client.search_runs([experiment.experiment_id], same, max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0]
    tags = {**request["tags"], _RUN_TAG: request["run_id"]}
    run = client.create_run(experiment.experiment_id, run_name=request["run_name"], tags=tags)
    params = [Param(name, str(value)[:MAX_PARAM]) for name, value in _flat(request["config"])]
    client.log_batch(run.info.run_id, params=params)
    return run


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _last_step(client: MlflowClient, run_id: str) -> int:
    """The last step that an earlier attempt has logged."""
    return max((metric.step for metric in client.get_metric_history(run_id, "train_loss")), default=0)


def _batches() -> Iterator[list[dict[str, Any]]]:
    """All lines that have come, as often as there are some: a slow server gets fewer and larger requests."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        batch = [lines.get()]
        while not lines.empty():
            batch.append(lines.get())
        yield [json.loads(line) for line in batch if line is not None]
        if batch[-1] is None:
            return


def _log(client: MlflowClient, run_id: str, steps: list[dict[str, Any]]) -> None:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now_ms, step["step"]) for step in steps for name, value in step.items()]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def _refuse(answers: TextIO, why: str) -> int:
    print(json.dumps({"error": without_secrets(why)[:500]}), file=answers)
    return 1


if __name__ == "__main__":
    sys.exit(main())
