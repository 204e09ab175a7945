"""A deployment to be ill-treated: real Postgres, Redis and S3 behind proxies (or one data folder), parts that are
killed and started again, and a client that remembers every answer it got.

The parts run by the commands of `attune up`, with short leases; the engine is tests/faults/fake_engine.py.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import obstore
import openai
import psutil
from openai import OpenAI
from psycopg import sql
from sqlalchemy import func, select

from cli.up import Parts, preparations, services
from core.db import Database, open_database
from core.errors import Unavailable
from core.models import Worker
from core.settings import Settings
from core.store.storage import Storage, open_storage, s3_store
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from tests.api.receiver import Receiver, receiver
from tests.faults.history import BATCH, ENDED, STEPS_PER_EPOCH, History, Intent, training_data
from tests.faults.parts import Part
from tests.faults.proxy import Proxy
from tests.faults.servers import Disk, Server, Store, store
from tests.live import BASE
from tests.services import START_LIMIT_S, Postgres, Redis, free_port, postgres, redis, redis_binary

LEASE_S = 6.0
BEAT_S = 0.5
GRACE_S = 5.0
TABLES_BYTES = 96 * 1024 * 1024  # of the disk that holds the tables of Postgres


class Rig:
    """`with rig(kind, folder, base) as rig:`; every scenario leaves it whole."""

    def __init__(self, kind: str, folder: Path, base: Path, stack: ExitStack, workers: int, *, disks: bool) -> None:
        self.kind = kind
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.history = History()
        self.proxies: dict[str, Proxy] = {}
        self.postgres: Postgres | None = None
        self.redis: Redis | None = None
        self.servers: dict[str, Server] = {}
        self.store: Store | None = None
        self.bucket = ""
        self.disk: Disk | None = None  # under the data folder
        self.tables: Disk | None = None  # under the tables of Postgres
        if disks:
            self.disk = Disk(self.data)
            stack.callback(self.disk.close)
        self.receiver: Receiver = stack.enter_context(receiver())
        shutil.copytree(base, self.data / "models" / BASE)
        direct, proxied = self._places(stack, disks=disks)
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
        self._twin_port = free_port()
        self.twin = self._twin()
        self.workers = [part for name, part in self.parts.items() if name.startswith("worker")]
        self.web = self.parts["web"]
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._count = 0
        self.secrets: dict[str, str] = {}  # of the webhook endpoints, by the receiver's path

    # Making it

    def _places(self, stack: ExitStack, *, disks: bool) -> tuple[dict[str, str], dict[str, str]]:
        """Settings of the three places, past the proxies and through them."""
        if self.kind == "embedded":
            return {}, {}
        self.postgres = stack.enter_context(postgres())
        self.redis = stack.enter_context(redis())
        self.store = stack.enter_context(store(self.folder))
        name = self.postgres.create_database()
        if disks:
            self._put_tables(name, stack)
        self.bucket = self.store.server.create_bucket()
        ports = {"postgres": self.postgres.port, "redis": self.redis.port, "s3": self.store.server.port}
        for part, port in ports.items():
            proxy = Proxy(port)
            stack.callback(proxy.close)
            self.proxies[part] = proxy
        again = [redis_binary(), "--port", str(self.redis.port), "--bind", "127.0.0.1", "--save", ""]
        self.servers = {"postgres": Server(self.postgres.port), "redis": Server(self.redis.port, again)}
        for server in self.servers.values():
            stack.callback(server.close)
        direct = {
            "database_url": self.postgres.url(name),
            "broker_url": self.redis.url(),
            **{
                key.removeprefix("ATTUNE_").lower(): value
                for key, value in self.store.server.settings(self.bucket).items()
            },
        }
        proxied = dict(direct)
        for part, name in (("postgres", "database_url"), ("redis", "broker_url"), ("s3", "s3_endpoint")):
            proxied[name] = proxied[name].replace(f":{ports[part]}", f":{self.proxies[part].port}")
        return direct, proxied

    def _put_tables(self, database: str, stack: ExitStack) -> None:
        """The database onto a disk of its own, before anybody connects to it."""
        assert self.postgres is not None
        self.tables = Disk(self.folder / "tables", TABLES_BYTES)
        stack.callback(self.tables.close)
        place = self.tables.folder / "space"
        place.mkdir(mode=0o700)
        shutil.chown(place, "nobody")
        for parent in place.parents:  # the server's user has to reach it
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o001)
        with self.postgres.connect() as connection:
            connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(place))))
            connection.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(sql.Identifier(database)))

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

    def _twin(self) -> Part:
        """A second web process over the same places; a scenario starts it (`start_twin`)."""
        settings = self.settings.model_copy(update={"port": self._twin_port})
        program = services(settings, Parts(0, serve=False))[0]
        environment = {**self._environment(program.environment), "ATTUNE_PORT": str(settings.port)}
        return Part("web-twin", program.command, environment, self.logs / "web-twin.log")

    def start(self) -> None:
        for part in self.parts.values():
            part.start()
        self._watcher.start()
        self.until_ready()
        self.listen("/ends")

    def listen(self, path: str, key: str = "") -> str:
        """A webhook endpoint for every end of a job, at the receiver's `path`; its id."""
        kinds = [f"fine_tuning.job.{status}" for status in ENDED]
        endpoint = {"name": path.strip("/"), "url": f"{self.receiver.url}{path}", "event_types": kinds}
        made = self.http(key).post("/v1/webhook_endpoints", json=endpoint).raise_for_status().json()
        self.secrets[path] = made["signing_secret"]
        return str(made["id"])

    def until_settled(self, within_s: float = 120.0) -> None:
        """Until every webhook is delivered and the web side answers; an endpoint that a killed process held is free
        when its lease has ended."""
        self.until_ready()
        undelivered = (
            select(func.count())
            .select_from(WebhookDelivery)
            .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
            .where(WebhookDelivery.delivered_at.is_(None), WebhookEndpoint.disabled_at.is_(None))
        )

        def settled() -> bool:
            with self.database() as database, database.read() as session:
                waiting = session.scalar(undelivered)
                unspread = session.scalar(select(func.count()).where(WebhookEvent.spread_at.is_(None)))
            return not waiting and not unspread

        with suppress(TimeoutError):  # the invariants say what is missing
            self.until(settled, "webhooks are delivered", within_s)

    def start_twin(self) -> psutil.Process:
        """The second web process, once it has answered."""
        self.twin.start()
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = httpx.get(f"http://127.0.0.1:{self._twin_port}/readyz", trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    assert self.twin.process is not None
                    return psutil.Process(self.twin.process.pid)
            time.sleep(0.1)
        raise TimeoutError(f"the second web process is not ready; see {self.logs}")

    def until_ready(self, within_s: float = 240.0) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError, KeyError, ValueError, Unavailable):
                if httpx.get(f"{self.address}/readyz", trust_env=False, timeout=5).status_code == httpx.codes.OK:
                    base = self.http().get(f"/v1/models/{BASE}")
                    if self._workers_registered() and base.status_code == httpx.codes.OK:
                        return
            time.sleep(0.1)
        raise TimeoutError(f"not ready after {within_s} s; see {self.logs}")

    def _workers_registered(self) -> bool:
        """Those that run now, not their dead predecessors."""
        with self.database() as database, database.read() as session:
            registered = set(session.scalars(select(Worker.pid)))
        return {part.process.pid for part in self.workers if part.process is not None} <= registered

    def _watch(self) -> None:
        while not self._watching.wait(0.05):
            for part in (*self.parts.values(), self.twin):
                part.look_after()

    def close(self) -> None:
        self._watching.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for part in (*self.parts.values(), self.twin):
            with suppress(subprocess.TimeoutExpired):
                part.stop()

    # Using it

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def http(self, key: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30, trust_env=False)

    def client(self, retries: int = 8, key: str = "") -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=key or self.key, max_retries=retries, timeout=20)

    def tenant(self, name: str) -> str:
        """A project of its own, with a webhook endpoint; a key of it."""
        http = self.http()
        project = http.post("/v1/attune/projects", json={"name": name}).raise_for_status().json()["id"]
        made = http.post("/v1/attune/keys", json={"name": name, "project_id": project})
        key = str(made.raise_for_status().json()["key"])
        self.listen(f"/{name}", key)
        return key

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_database(self.direct.resolved_database_url)
        try:
            yield database
        finally:
            database.close()

    def storage(self) -> Storage:
        return open_storage(self.direct)

    def upload(self, word: str = "order", client: OpenAI | None = None) -> str:
        """A file, remembered once it is acknowledged."""
        self._count += 1
        data = training_data(f"{word} {self._count}")
        file = (client or self.client()).files.create(file=("orders.jsonl", data), purpose="fine-tune")
        self.history.files[file.id] = data
        return file.id

    def create(self, file_id: str, steps: int, client: OpenAI | None = None) -> Intent:
        """A job of about so many steps, remembered whether or not an answer came. Raises what the client raises."""
        self._count += 1
        epochs = max(1, round(steps / STEPS_PER_EPOCH))
        client = client or self.client()
        data = self.history.files[file_id]
        intent = Intent(f"intent-{self._count}", self._count, data, epochs, client.api_key)
        self.history.jobs.append(intent)
        intent.job_id = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=file_id,
            seed=intent.seed,
            metadata={"intent": intent.name},
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": BATCH}},
            },
        ).id
        return intent

    def status(self, intent: Intent) -> str:
        assert intent.job_id is not None
        return self.client(key=intent.key).fine_tuning.jobs.retrieve(intent.job_id).status

    def step(self, intent: Intent) -> int:
        assert intent.job_id is not None
        return int(self.http().get(f"/v1/fine_tuning/jobs/{intent.job_id}").json()["attune"]["progress"]["step"])

    def until(self, true: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
        """Poll; a service that is away meanwhile is no answer."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(openai.APIError, httpx.TransportError, KeyError, ValueError):
                if true():
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{what}: not within {within_s:.0f} s")

    def until_ended(self, intents: list[Intent], within_s: float = 300.0) -> float:
        """Seconds until all have a final status."""
        begun = time.monotonic()
        for intent in intents:
            if intent.job_id is not None:
                left_s = max(1.0, within_s - (time.monotonic() - begun))
                self.until(lambda intent=intent: self.status(intent) in ENDED, f"{intent.job_id} ends", left_s)
        return time.monotonic() - begun

    def engines(self, part: Part) -> list[psutil.Process]:
        """A worker's engines."""
        assert part.process is not None
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(part.process.pid).children():
                if any("fake_engine" in word for word in process.cmdline()):
                    found.append(process)
        return found

    def overwrite(self, key: str, change: Callable[[bytes], bytes]) -> None:
        """An object's bytes, behind the service's back."""
        content = change(b"".join(self.storage().open(key)))
        if self.store is None:
            (self.data / "objects" / key).write_bytes(content)
        else:
            obstore.put(s3_store(self.direct, self.bucket, "", self.direct.s3_endpoint), key, content)


@contextmanager
def rig(kind: str, folder: Path, base: Path, workers: int = 2, *, disks: bool = False) -> Iterator[Rig]:
    """`kind`: services (Postgres, Redis, S3) or embedded (SQLite, folder, file broker). `disks`: the data folder, and
    the tables of Postgres, are small file systems of their own."""
    with ExitStack() as stack:
        made = Rig(kind, folder, base, stack, workers, disks=disks)
        try:
            made.start()
            yield made
        finally:
            made.close()
