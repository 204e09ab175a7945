"""What docker-compose.yml starts, on this machine without Docker: its commands, environments and health checks.

Containers become programs, their paths folders of one temporary folder, their host names ports of 127.0.0.1.
Postgres and the S3 store are the tests' own servers, prepared by the very script and one-shots of the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from tests import services
from tests.docker import compose_file
from tests.docker.compose_file import ROOT, Service

PROFILE = "cpu"
HEALTHY_S = 90.0  # from start to the first good health check
HEALTH_LIMIT_S = 20.0  # one check
# host:port within the networks of the compose file
ADDRESSES = ("postgres:5432", "redis:6379", "store:8333", "web:8000", "serve:8001")


@dataclass(frozen=True)
class Stack:
    """The running services. `folder` has secrets/, models/, operator/, and one folder a service."""

    folder: Path
    ports: dict[str, int]  # by the host name in the compose file
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['web']}"

    @property
    def key(self) -> str:
        return (self.folder / "operator/key").read_text().strip()

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text(errors="replace")

    def local(self, text: str, name: str) -> str:
        """`text` of the service `name` with this machine's paths and ports."""
        for shared in ("models", "operator"):
            text = re.sub(rf"(?<![\w/])/{shared}\b", str(self.folder / shared), text)
        text = re.sub(r"(?<![\w/])/data\b", str(self.folder / name / "data"), text)
        text = text.replace("/run/secrets", str(self.folder / "secrets")).replace("0.0.0.0", "127.0.0.1")
        for address in ADDRESSES:
            host, port = address.split(":")
            text = re.sub(rf"\b({host}|127\.0\.0\.1):{port}\b", f"127.0.0.1:{self.ports[host]}", text)
            text = re.sub(rf"^{port}$", str(self.ports[host]), text)  # an argument or a variable of its own
        return text

    def words(self, words: list[str], name: str) -> list[str]:
        return [self.local(word, name) for word in words]

    def environment(self, service: Service) -> dict[str, str]:
        """The image's variables, then the service's; nothing of ours but where Python finds the code."""
        image = compose_file.image_environment(service.dockerfile) if service.dockerfile else {}
        named = {key: self.local(value, service.name) for key, value in {**image, **service.environment}.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**named, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def healthy(self, service: Service) -> bool:
        checked = subprocess.run(
            self.words(service.health, service.name),
            env=self.environment(service),
            cwd=ROOT,
            capture_output=True,
            timeout=HEALTH_LIMIT_S,
            check=False,
        )
        return checked.returncode == 0


@contextmanager
def compose_stack(folder: Path) -> Iterator[Stack]:
    """Everything of the profile, in the order that depends_on asks for."""
    wanted = {
        name: service
        for name, service in compose_file.services(compose_file.example()).items()
        if service.raw.get("profiles", [PROFILE]) == [PROFILE]
    }
    order = TopologicalSorter({name: service.after for name, service in wanted.items()})
    order.prepare()
    with ExitStack() as until_the_end:
        postgres = until_the_end.enter_context(services.postgres())
        store = until_the_end.enter_context(services.s3())
        ports = {address.split(":")[0]: services.free_port() for address in ADDRESSES}
        stack = Stack(folder, {**ports, "postgres": postgres.port, "store": store.port})
        _make_secrets(stack)
        while order.is_active():
            batch = [wanted[name] for name in order.get_ready()]
            for service in batch:
                (folder / service.name / "data").mkdir(parents=True)
                if service.name == "postgres":
                    compose_file.initialise_postgres(postgres, service, stack.environment(service))
                elif service.name == "redis":
                    until_the_end.enter_context(_redis(stack, service))
                elif service.dockerfile is None or service.name == "store-volume":
                    continue  # the store is ours, and has no volume
                elif service.is_one_shot:
                    _run(stack, service)
                else:
                    until_the_end.enter_context(_started(stack, service))
            for service in batch:
                if service.name in stack.running:
                    _wait_until_healthy(stack, service)
                order.done(service.name)
        yield stack


def _make_secrets(stack: Stack) -> None:
    secrets = stack.folder / "secrets"
    subprocess.run([ROOT / "docker/make-secrets", secrets], check=True, capture_output=True)
    for path in secrets.iterdir():  # URLs hold host names
        path.chmod(0o600)
        path.write_text(stack.local(path.read_text(), "secrets"))


@contextmanager
def _redis(stack: Stack, service: Service) -> Iterator[None]:
    program, *words = stack.words(service.command, service.name)
    assert program == "redis-server"
    port = stack.ports["redis"]
    command = [services.redis_binary(), *words, "--bind", "127.0.0.1", "--port", str(port)]
    log = stack.folder / service.name / "log"
    with services.program(command, log=log, ready=lambda: services.port_answers(port)):
        yield


def _run(stack: Stack, service: Service) -> None:
    done = subprocess.run(
        stack.words(service.command, service.name),
        env=stack.environment(service),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{service.name}: {done.stdout}{done.stderr}"


@contextmanager
def _started(stack: Stack, service: Service) -> Iterator[None]:
    with services.program(
        stack.words(service.command, service.name),
        log=stack.folder / service.name / "log",
        ready=lambda: True,  # its health is asked once the others of its batch are started too
        env=stack.environment(service),
        cwd=ROOT,
        end_limit_s=20.0,
    ) as process:
        stack.running[service.name] = process
        yield


def _wait_until_healthy(stack: Stack, service: Service) -> None:
    deadline = time.monotonic() + HEALTHY_S
    while not stack.healthy(service):
        if stack.running[service.name].poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} ended or is not healthy: {stack.log(service.name)[-4000:]}")
        time.sleep(1.0)  # a check costs half a second of a core that the service wants for its start
