"""A deployment to be ill-treated: real Postgres, Redis and S3 behind proxies (or one data folder), parts that are
killed and started again, and a client that remembers every answer it got.

The parts run by the commands of `attune up`, with short leases; the engine is tests/faults/fake_engine.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
from openai import OpenAI
from sqlalchemy import func, select

from cli.up import Parts, preparations, services
from core.db import Database, open_database
from core.settings import Settings
from core.storage import Storage, open_storage
from core.webhook_models import WebhookDelivery, WebhookEvent
from tests.api.receiver import Receiver, receiver
from tests.faults.proxy import Mode, Proxy
from tests.live import BASE
from tests.services import Postgres, Redis, end_with_parent, free_port, postgres, redis, s3

LEASE_S = 6.0
BEAT_S = 0.5
GRACE_S = 5.0
START_AGAIN_S = 0.2
EXAMPLES = 24
BATCH = 4
STEPS_PER_EPOCH = EXAMPLES // BATCH
ENDED = ("succeeded", "failed", "cancelled")


class Part:
    """One program of the deployment; started again when it dies, unless told to stay down."""

    def __init__(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._lock = threading.RLock()
        self._wanted = False
        self._extra: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """With `extra` in its environment, until it is started anew by `start`."""
        with self._lock:
            self._extra = dict(extra or {})
            self._wanted = True
            self._spawn()

    def start_anew(self, extra: Mapping[str, str] | None = None) -> None:
        """Killed, and started with `extra` in its environment."""
        with self._lock:
            self.kill()
            if self.process is not None:
                self.process.wait()
            self.start(extra)

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**self._environment, **self._extra},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # a rig that is killed leaves nothing behind
            )

    def look_after(self) -> None:
        with self._lock:
            if self._wanted and self.process is not None and self.process.poll() is not None:
                self.deaths += 1
                time.sleep(START_AGAIN_S)
                self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """To the program alone: what it leaves behind has to see to itself."""
        with self._lock, suppress(ProcessLookupError):
            if self.process is not None:
                self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def stop(self, within_s: float = 20.0) -> None:
        """SIGTERM, and down it stays. Raises TimeoutExpired when it does not end."""
        with self._lock:
            self._wanted = False
            if self.process is None:
                return
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(within_s)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@dataclass
class Intent:
    """One job that a client wanted. `job_id` None: it never learnt whether it has one."""

    name: str
    seed: int
    data: bytes
    epochs: int
    job_id: str | None = None
    cancelled: bool = False  # and the service has said yes
    may_end: tuple[str, ...] = ("succeeded",)  # what a good run of it may come to

    @property
    def steps(self) -> int:
        return self.epochs * STEPS_PER_EPOCH

    @property
    def adapter_sha256(self) -> str:
        """Of an undisturbed run of the fake engine."""
        link = hashlib.sha256(f"{self.seed}{hashlib.sha256(self.data).hexdigest()}".encode()).hexdigest()
        for step in range(1, self.steps + 1):
            link = hashlib.sha256(f"{link}{step}".encode()).hexdigest()
        return hashlib.sha256(link.encode() * 64).hexdigest()


@dataclass
class History:
    """Everything that was acknowledged to a client."""

    files: dict[str, bytes] = field(default_factory=dict)
    jobs: list[Intent] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def training_data(word: str) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"{word} {n}?"}, {"role": "assistant", "content": "today"}]}
        for n in range(EXAMPLES)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


class Rig:
    """`with rig(kind, folder, base) as rig:`; every scenario leaves it whole."""

    def __init__(self, kind: str, folder: Path, base: Path, stack: ExitStack, workers: int) -> None:
        self.kind = kind
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.history = History()
        self.proxies: dict[str, Proxy] = {}
        self.postgres: Postgres | None = None
        self.redis: Redis | None = None
        self.receiver: Receiver = stack.enter_context(receiver())
        shutil.copytree(base, self.data / "models" / BASE)
        direct, proxied = self._places(stack)
        self.settings = self._settings(proxied)  # as the parts see it
        self.direct = self._settings(direct)  # past the proxies, for the checker
        for program in preparations(self.settings):
            subprocess.run(program.command, env=self._environment(program.environment), cwd=program.folder, check=True,
                           capture_output=True)  # fmt: skip
        self.key = self.settings.resolved_operator_key_file.read_text().strip()
        self.parts = {
            program.name: Part(
                program.name,
                program.command,
                self._environment(program.environment),
                self.logs / f"{program.name}.log",
            )
            for program in services(self.settings, Parts(workers, serve=False))
        }
        self.workers = [part for name, part in self.parts.items() if name.startswith("worker")]
        self.web = self.parts["web"]
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._count = 0
        self.secret = ""

    # Making it

    def _places(self, stack: ExitStack) -> tuple[dict[str, str], dict[str, str]]:
        """Settings of the three places, past the proxies and through them."""
        if self.kind == "embedded":
            return {}, {}
        self.postgres = stack.enter_context(postgres())
        self.redis = stack.enter_context(redis())
        store = stack.enter_context(s3())
        name = self.postgres.create_database()
        bucket = store.create_bucket()
        for part, port in (("postgres", self.postgres.port), ("redis", self.redis.port), ("s3", store.port)):
            proxy = Proxy(port)
            stack.callback(proxy.close)
            self.proxies[part] = proxy
        direct = {
            "database_url": self.postgres.url(name),
            "broker_url": self.redis.url(),
            **{key.removeprefix("ATTUNE_").lower(): value for key, value in store.settings(bucket).items()},
        }
        proxied = dict(direct)
        for part, field_name, port in (
            ("postgres", "database_url", self.postgres.port),
            ("redis", "broker_url", self.redis.port),
            ("s3", "s3_endpoint", store.port),
        ):
            proxied[field_name] = proxied[field_name].replace(f":{port}", f":{self.proxies[part].port}")
        return direct, proxied

    def _settings(self, places: Mapping[str, str]) -> Settings:
        shared = self.__dict__.setdefault("_ports", {"port": free_port(), "serve_port": free_port()})
        return Settings(
            data_dir=self.data,
            lease_s=LEASE_S,
            beat_s=BEAT_S,
            janitor_interval_s=0.5,
            snapshot_interval_s=0.0,
            stop_grace_s=GRACE_S,
            engine_module="tests.faults.fake_engine",
            webhook_allow="127.0.0.1",
            worker_name="fault-worker",
            **shared,  # pyright: ignore[reportArgumentType]
            **places,  # pyright: ignore[reportArgumentType]
        )

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The program's own, with every setting that is not a default."""
        ours = {
            f"ATTUNE_{name.upper()}": str(getattr(self.settings, name))
            for name in self.settings.model_fields_set
            if name not in ("worker_name",)
        }
        return {**ours, **environment, "OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        for part in self.parts.values():
            part.start()
        self._watcher.start()
        self.until_ready()
        self.secret = self._listen()

    def _listen(self) -> str:
        """A webhook endpoint for every end; its signing secret."""
        kinds = [f"fine_tuning.job.{status}" for status in ENDED]
        endpoint = {"name": "ends", "url": f"{self.receiver.url}/ends", "event_types": kinds}
        return self.http().post("/v1/webhook_endpoints", json=endpoint).raise_for_status().json()["signing_secret"]

    def until_settled(self, within_s: float = 180.0) -> None:
        """Until every webhook is delivered and the web side answers; an endpoint that a killed process held is free
        after two minutes."""
        self.until_ready()

        def settled() -> bool:
            with self.database() as database, database.read() as session:
                waiting = session.scalar(select(func.count()).where(WebhookDelivery.delivered_at.is_(None)))
                unspread = session.scalar(select(func.count()).where(WebhookEvent.spread_at.is_(None)))
            return not waiting and not unspread

        with suppress(TimeoutError):  # the invariants say what is missing
            self.until(settled, "webhooks are delivered", within_s)

    def until_ready(self, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError, KeyError, ValueError):
                if httpx.get(f"{self.address}/readyz", trust_env=False, timeout=5).status_code == httpx.codes.OK:
                    alive = self.http().get("/v1/attune/workers").json()["data"]
                    base = self.http().get(f"/v1/models/{BASE}")
                    if len(alive) >= len(self.workers) and base.status_code == httpx.codes.OK:
                        return
            time.sleep(0.1)
        raise TimeoutError(f"not ready after {within_s} s; see {self.logs}")

    def _watch(self) -> None:
        while not self._watching.wait(0.05):
            for part in self.parts.values():
                part.look_after()

    def close(self) -> None:
        self._watching.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for part in self.parts.values():
            with suppress(subprocess.TimeoutExpired):
                part.stop()

    # Using it

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30, trust_env=False)

    def client(self, retries: int = 8) -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=self.key, max_retries=retries, timeout=20)

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_database(self.direct.resolved_database_url)
        try:
            yield database
        finally:
            database.close()

    def storage(self) -> Storage:
        return open_storage(self.direct)

    def upload(self, word: str = "order") -> str:
        """A file, remembered once it is acknowledged."""
        self._count += 1
        data = training_data(f"{word} {self._count}")
        file = self.client().files.create(file=("orders.jsonl", data), purpose="fine-tune")
        self.history.files[file.id] = data
        return file.id

    def create(self, file_id: str, steps: int, client: OpenAI | None = None) -> Intent:
        """A job of about so many steps, remembered whether or not an answer came. Raises what the client raises."""
        self._count += 1
        epochs = max(1, round(steps / STEPS_PER_EPOCH))
        intent = Intent(f"intent-{self._count}", self._count, self.history.files[file_id], epochs)
        self.history.jobs.append(intent)
        intent.job_id = (
            (client or self.client())
            .fine_tuning.jobs.create(
                model=BASE,
                training_file=file_id,
                seed=intent.seed,
                metadata={"intent": intent.name},
                method={
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": BATCH}},
                },
            )
            .id
        )
        return intent

    def status(self, intent: Intent) -> str:
        assert intent.job_id is not None
        return self.client().fine_tuning.jobs.retrieve(intent.job_id).status

    def step(self, intent: Intent) -> int:
        assert intent.job_id is not None
        return int(self.http().get(f"/v1/fine_tuning/jobs/{intent.job_id}").json()["attune"]["progress"]["step"])

    def until(self, true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
        """Poll; a service that is away meanwhile is no answer."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(openai.APIError, httpx.TransportError, KeyError, ValueError):
                if true():
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{what}: not within {within_s:.0f} s")

    def until_ended(self, intents: list[Intent], within_s: float = 120.0) -> float:
        """Seconds until all have a final status."""
        begun = time.monotonic()
        for intent in intents:
            if intent.job_id is not None:
                left_s = max(1.0, within_s - (time.monotonic() - begun))
                self.until(lambda intent=intent: self.status(intent) in ENDED, f"{intent.job_id} ends", left_s)
        return time.monotonic() - begun

    def engines(self, part: Part) -> list[int]:
        """The process ids of a worker's engines."""
        assert part.process is not None
        found = subprocess.run(
            ["pgrep", "-P", str(part.process.pid), "-f", "fake_engine"], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def being(self, part: str, mode: Mode) -> object:
        return self.proxies[part].being(mode)


@contextmanager
def rig(kind: str, folder: Path, base: Path, workers: int = 2) -> Iterator[Rig]:
    """`kind`: services (Postgres, Redis, S3) or embedded (SQLite, folder, file broker)."""
    with ExitStack() as stack:
        made = Rig(kind, folder, base, stack, workers)
        try:
            made.start()
            yield made
        finally:
            made.close()
