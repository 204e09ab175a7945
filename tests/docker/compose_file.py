"""docker-compose.yml and the Dockerfiles as the tests need them: merged, interpolated, with words for commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.services import Postgres

ROOT = Path(__file__).parent.parent.parent
COMPOSE_FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")  # the two forms that our file uses


@dataclass(frozen=True)
class Service:
    name: str
    raw: dict[str, Any]

    @property
    def command(self) -> list[str]:
        return _words(self.raw.get("command", []))

    @property
    def environment(self) -> dict[str, str]:
        return self.raw.get("environment", {})

    @property
    def secrets(self) -> list[str]:
        return self.raw.get("secrets", [])

    @property
    def health(self) -> list[str]:
        """The words of its health check, empty without one."""
        test = self.raw.get("healthcheck", {}).get("test", [])
        return ["sh", "-c", test[1]] if test[:1] == ["CMD-SHELL"] else test[1:]

    @property
    def is_one_shot(self) -> bool:
        return self.raw["restart"] != "unless-stopped"

    @property
    def dockerfile(self) -> Path | None:
        build = self.raw.get("build")
        return ROOT / build["dockerfile"] if build else None

    @property
    def after(self) -> dict[str, str]:
        """service -> condition"""
        return {name: wait["condition"] for name, wait in self.raw.get("depends_on", {}).items()}


def _words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def variables() -> set[str]:
    """The names that docker-compose.yml takes from its environment."""
    return {name for name, _ in _VARIABLE.findall(COMPOSE_FILE.read_text()) if name}


def read_compose(env: Mapping[str, str]) -> dict[str, Any]:
    """The whole file with `env` filled in."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner) for inner in value]
        if not isinstance(value, str):
            return value
        return _VARIABLE.sub(lambda found: (env.get(found[1]) or found[2] or "") if found[1] else "$", value)

    return fill(yaml.safe_load(COMPOSE_FILE.read_text()))


def services(env: Mapping[str, str]) -> dict[str, Service]:
    return {name: Service(name, raw) for name, raw in read_compose(env)["services"].items()}


def image_environment(dockerfile: Path) -> dict[str, str]:
    """What the last stage of a Dockerfile sets with ENV, but for PATH."""
    last_stage = dockerfile.read_text().replace("\\\n", " ").rsplit("\nFROM ", 1)[1]
    pairs = [pair for line in re.findall(r"^ENV (.*)$", last_stage, re.MULTILINE) for pair in line.split()]
    found = dict(pair.split("=", 1) for pair in pairs)
    del found["PATH"]
    return found


def initialise_postgres(server: Postgres, service: Service, environment: Mapping[str, str]) -> None:
    """What the image does at its first start: the database, then the script that is mounted."""
    with server.connect() as superuser:
        superuser.execute(f"CREATE DATABASE {service.environment['POSTGRES_DB']}")
    script = next(mount for mount in service.raw["volumes"] if "docker-entrypoint-initdb.d" in mount).split(":")[0]
    client = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGPASSWORD": server.password}
    path = {"PATH": f"{server.binaries}:{os.environ['PATH']}"}
    subprocess.run([ROOT / script], env={**environment, **client, **path}, check=True)
