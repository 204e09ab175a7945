"""A whole running service for tests and benchmarks: `attune up` in a data folder of its own, as a user starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.services import free_port

ROOT = Path(__file__).parent.parent
BASE = "attune-demo"
READY_S = 60.0
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Live:
    """A running service. `process` is its supervisor."""

    data: Path
    address: str
    process: subprocess.Popen[bytes]

    @property
    def key(self) -> str:
        return (self.data / "operator-key").read_text().strip()

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=self.key)

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    def processes(self, part: str) -> list[psutil.Process]:
        """The live processes of this service whose command line holds `part`."""
        found = [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if part in " ".join(_command_line(process))
        ]
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def wait_for_worker(self) -> None:
        """Until a worker is idle with its engine started, and a server answers."""
        deadline = time.monotonic() + READY_S
        with self.http() as http:
            while time.monotonic() < deadline:
                try:
                    workers = http.get("/v1/attune/workers").json()["data"]
                    servers = http.get("/v1/attune/servers").json()["data"]
                    if servers and any(worker["state"] == "idle" for worker in workers):
                        return
                except (httpx.TransportError, KeyError):
                    pass  # not up yet
                time.sleep(0.1)
        raise TimeoutError("no worker became idle")


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# A worker that is lost, and a job that is paused, are seen within seconds
PROMPT = {"ATTUNE_SNAPSHOT_INTERVAL_S": "1", "ATTUNE_BEAT_S": "1", "ATTUNE_LEASE_S": "10"}


@contextmanager
def tiny_service(folder: Path, environment: Mapping[str, str]) -> Iterator[Live]:
    """The service over a base of random weights, whose jobs end in seconds; ready to train and to answer."""
    from tests.engine.tiny_base import make_base as make_tiny_base  # brings torch, which the benchmarks here do without

    with live_service(folder / "data", make_tiny_base(folder / BASE), {**PROMPT, **environment}) as live:
        live.wait_for_worker()
        yield live


def make_base(folder: Path, steps: int) -> Path:
    """The demo's base, pre-trained for no more than `steps` steps: quickly made, and knows little."""
    command = [sys.executable, "-m", "worker.demo_base", str(folder), "--steps", str(steps)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def demo_base() -> Path:
    """The demo's base as `make demo` keeps it, made now if it is not there (minutes)."""
    folder = ROOT / "demo-data" / "models" / BASE
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run([sys.executable, "-m", "worker.demo_base", str(folder)], cwd=ROOT, check=True, env=environment)
    return folder


@contextmanager
def live_service(data: Path, base: Path, environment: Mapping[str, str] | None = None) -> Iterator[Live]:
    """Start the service over a copy of `base`, wait until it is ready, and stop it in the end."""
    target = data / "models" / BASE
    if not target.exists():
        target.parent.mkdir(parents=True)
        shutil.copytree(base, target)
    port, serve_port = free_port(), free_port()
    command = [sys.executable, "-m", "cli.main", "up", "--data", str(data), "--port", str(port)]
    log = (data / "up.log").open("ab")
    process = subprocess.Popen(
        [*command, "--serve-port", str(serve_port)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=log,
        stderr=log,
    )
    live = Live(data, f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(live)
        yield live
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        log.close()


def _wait_until_ready(live: Live) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if live.process.poll() is not None:
            raise RuntimeError(f"the service ended: {(live.data / 'up.log').read_text()[-3000:]}")
        try:
            if httpx.get(f"{live.address}/readyz", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise TimeoutError(f"the service did not become ready: {(live.data / 'up.log').read_text()[-3000:]}")


def wait_until_ended(client: OpenAI, job_id: str, timeout_s: float = 180.0) -> FineTuningJob:
    """Poll as a user would; connection errors are met by the client's own retries."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ENDED:
            return job
        time.sleep(0.2)
    raise TimeoutError(f"job {job_id} is still {job.status} after {timeout_s} s")


def wait_for_step(client: OpenAI, job_id: str, step: int, timeout_s: float = 90.0) -> None:
    """Until the job has reported `step` or ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id).to_dict()
        if job["status"] in ENDED or job["attune"]["progress"]["step"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"job {job_id} has not reached step {step} after {timeout_s} s")
