"""`make bench-service`: what the service adds to training, and what kills cost, over the embedded defaults.

Prints a table and ends in one line of JSON. Every figure is measured here, on a service started for it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psutil
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from core.data.sample_data import messages
from core.db import open_database
from core.models import BaseModelRow, Job
from core.protocol import Exit, Failed, Ready, Step, Train, Trained, TrainTask, parse_report
from core.spec import Execution, Resolved
from tests.live import BASE, Live, demo_base, live_service, wait_for_step, wait_until_ended

PARTS = {"engine": "worker.engine", "worker": "worker.app", "web": "api.app"}
EXAMPLES = 600
BATCH = 16


@dataclass(frozen=True)
class Sizes:
    starts: int  # repeats of create to first step
    long_seconds: float  # about as long as this the compared job trains
    kills_per_part: int
    kill_steps: int  # optimizer steps of a job that is killed


FULL = Sizes(starts=10, long_seconds=60.0, kills_per_part=5, kill_steps=114)
QUICK = Sizes(starts=2, long_seconds=8.0, kills_per_part=1, kill_steps=76)


def training_file(count: int) -> bytes:
    rows = [
        json.dumps({"messages": [{"role": "user", "content": m.text}, {"role": "assistant", "content": m.ticket}]})
        for _, m in zip(range(count), messages(5, unseen=False), strict=False)
    ]
    return ("\n".join(rows) + "\n").encode()


class Bench:
    def __init__(self, live: Live, sizes: Sizes, console: Console) -> None:
        self.live = live
        self.sizes = sizes
        self.console = console
        # a web process that was killed is back within seconds: the client's own retries wait for it
        self.client: OpenAI = live.client().with_options(max_retries=10)
        self.file = self.client.files.create(file=("tickets.jsonl", training_file(EXAMPLES)), purpose="fine-tune").id

    def create(self, steps: int) -> str:
        per_epoch = -(-EXAMPLES // BATCH)
        epochs = min(50, max(1, round(steps / per_epoch)))
        job = self.client.fine_tuning.jobs.create(
            model=BASE,
            training_file=self.file,
            seed=3,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": BATCH}},
            },
            extra_body={"attune": {"lora": {"rank": 16, "dropout": 0.1}}},
        )
        return job.id

    def sha256(self, model: str | None) -> str:
        with self.live.http() as http:
            archive = http.get(f"/v1/attune/models/{model}/download")
        archive.raise_for_status()
        with zipfile.ZipFile(io.BytesIO(archive.content)) as bundle:
            return hashlib.sha256(bundle.read("adapter_model.safetensors")).hexdigest()

    def first_step_s(self) -> float:
        """Seconds from sending the create to the first step's event, polled every 10 ms."""
        begun = time.monotonic()
        job_id = self.create(38)
        while not any(event.type == "metrics" for event in self.client.fine_tuning.jobs.list_events(job_id)):
            time.sleep(0.01)
        took = time.monotonic() - begun
        self.client.fine_tuning.jobs.cancel(job_id)
        wait_until_ended(self.client, job_id)
        self.live.wait_for_worker()
        return took

    def starts(self) -> tuple[float, float]:
        """Median seconds from create to first step: (engine warm, no engine running)."""
        self.first_step_s()  # the base becomes resident
        warm = [self.first_step_s() for _ in range(self.sizes.starts)]
        cold = []
        for _ in range(self.sizes.starts):
            for engine in self.live.processes(PARTS["engine"]):
                engine.kill()
                engine.wait(10)
            cold.append(self.first_step_s())
        return statistics.median(warm), statistics.median(cold)

    def over_bare_engine(self) -> tuple[float, float, float]:
        """(wall of a job, wall of the same run by a bare engine, their ratio), both warm; the better of two each."""
        probe = self.create(200)
        begun = time.monotonic()
        wait_until_ended(self.client, probe)
        steps = round(200 * self.sizes.long_seconds / (time.monotonic() - begun))
        jobs: list[float] = []
        bare: list[float] = []
        for _ in range(2):
            begun = time.monotonic()
            job_id = self.create(steps)
            job = wait_until_ended(self.client, job_id, 600)
            jobs.append(time.monotonic() - begun)
            assert job.status == "succeeded", job.error
            # the warm engine of the service holds memory, not the cores: it sleeps meanwhile
            bare.append(self.bare_engine_s(job_id))
        return min(jobs), min(bare), min(jobs) / min(bare)

    def bare_engine_s(self, job_id: str) -> float:
        """Seconds from Train to Trained of the same task in an engine started here, its base resident."""
        database = open_database(f"sqlite:///{self.live.data / 'attune.db'}")
        with database.read() as session:
            job = session.get_one(Job, job_id)
            base = session.get_one(BaseModelRow, BASE)
        database.close()
        execution = Execution.model_validate(job.execution)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            task = TrainTask(
                job_id=job.id,
                attempt=1,
                base_model=BASE,
                base_revision=base.revision,
                base_folder=str(self.live.data / "models" / BASE),
                resolved=Resolved.model_validate(job.resolved),
                seed=job.seed,
                execution=execution,
                template_date=job.template_date or "",
            )
            warm_up = task.model_copy(update={"resolved": task.resolved.model_copy(update={"total_steps": 5})})
            return _run_engine(root, warm_up, task, training_file(EXAMPLES), execution.threads)

    def kills(self) -> tuple[int, int, int, list[list[str]]]:
        """(kills that hit a running job, jobs that succeeded, same hash, a table row for each part)."""
        reference = self.timed_job(None, 0)
        chance = random.Random(20)
        hits = succeeded = same = 0
        rows = []
        for name, part in PARTS.items():
            extra: list[float] = []
            equal = 0
            for _ in range(self.sizes.kills_per_part):
                step = chance.randrange(2, int(self.sizes.kill_steps * 0.8))
                took, status, sha256 = self.timed_job(part, step)
                hits += 1
                succeeded += status == "succeeded"
                equal += sha256 == reference[2]
                extra.append(took - reference[0])
            same += equal
            rows.append([name, str(self.sizes.kills_per_part), str(equal), f"{max(extra):.1f}"])
        return hits, succeeded, same, rows

    def timed_job(self, part: str | None, step: int) -> tuple[float, str, str]:
        """One job, with a kill -9 of `part` once it has reported `step`: (seconds, status, adapter's sha256)."""
        begun = time.monotonic()
        job_id = self.create(self.sizes.kill_steps)
        if part is not None:
            wait_for_step(self.client, job_id, step)
            victims = self.live.processes(part)
            running = self.client.fine_tuning.jobs.retrieve(job_id).status == "running"
            assert victims and running, "the kill did not land in a running job"  # noqa: PT018
            victims[0].kill()
        job = wait_until_ended(self.client, job_id, 600)
        took = time.monotonic() - begun
        self.live.wait_for_worker()
        return took, job.status, self.sha256(job.fine_tuned_model) if job.fine_tuned_model else ""

    def rss_mib(self, part: str) -> float:
        processes = self.live.processes(part)
        assert processes
        return max(_rss(process) for process in processes) / 2**20


def _rss(process: psutil.Process) -> int:
    return process.memory_info().rss


def _run_engine(root: Path, warm_up: TrainTask, task: TrainTask, data: bytes, threads: int) -> float:
    engine = subprocess.Popen(
        [sys.executable, "-m", "worker.engine", "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    took = 0.0
    try:
        assert isinstance(parse_report.validate_json(engine.stdout.readline()), Ready)
        for name, each in (("warm-up", warm_up), ("timed", task)):
            folder = root / name
            folder.mkdir()
            (folder / "task.json").write_text(each.model_dump_json())
            (folder / "training.jsonl").write_bytes(data)
            begun = time.monotonic()
            engine.stdin.write(Train(folder=str(folder)).model_dump_json().encode() + b"\n")
            engine.stdin.flush()
            while not isinstance(report := parse_report.validate_json(engine.stdout.readline()), Trained):
                assert not isinstance(report, Failed), report
                assert isinstance(report, Step) or report.report != "ready"
            took = time.monotonic() - begun
        engine.stdin.write(Exit().model_dump_json().encode() + b"\n")
        engine.stdin.flush()
        engine.wait(20)
    finally:
        engine.kill()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, for a look")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    console = Console()
    with tempfile.TemporaryDirectory(prefix="attune-bench-") as folder:
        data = Path(folder) / "data"
        with live_service(data, demo_base()) as live:
            live.wait_for_worker()
            bench = Bench(live, sizes, console)
            warm_s, cold_s = bench.starts()
            job_s, bare_s, ratio = bench.over_bare_engine()
            web_mib, worker_mib = bench.rss_mib(PARTS["web"]), bench.rss_mib(PARTS["worker"])
            kills, succeeded, same_hash, rows = bench.kills()
    table = Table(title="The service over a bare engine")
    for heading in ("figure", "measured", "goal"):
        table.add_column(heading)
    table.add_row("create to first step, warm", f"{warm_s:.2f} s", "1.5 s")
    table.add_row("create to first step, cold", f"{cold_s:.2f} s", "12 s")
    table.add_row("job over bare engine, warm", f"{job_s:.1f} s / {bare_s:.1f} s = {ratio:.3f}", "1.10")
    table.add_row("web process", f"{web_mib:.0f} MiB", "250 MiB")
    table.add_row("worker beside its warm engine", f"{worker_mib:.0f} MiB", "300 MiB")
    table.add_row("kill -9 in a running job, then succeeded", f"{succeeded} of {kills}", "all")
    console.print(table)
    killed = Table(title="kill -9")
    for heading in ("process", "kills", "same adapter hash", "slowest: seconds over the undisturbed job"):
        killed.add_column(heading)
    for row in rows:
        killed.add_row(*row)
    console.print(killed)
    figures = {
        "create_to_first_step_warm_s": round(warm_s, 3),
        "create_to_first_step_cold_s": round(cold_s, 3),
        "job_over_bare_engine_warm": round(ratio, 3),
        "web_rss_mib": round(web_mib),
        "worker_rss_mib": round(worker_mib),
        "kills": kills,
        "kills_same_hash": same_hash,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
