"""The images and the compose file, as far as they can be proven where no Docker engine runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from api.metrics import Requests, exposition
from core import migrate
from core.db import open_database
from core.settings import Settings, load_settings
from core.store.storage import open_storage
from tests import services
from tests.docker import compose_file
from tests.docker.compose_file import COMPOSE_FILE, DOCKERFILES, ROOT, Service

DOCKER = ROOT / "docker"
SERVICES = compose_file.services(compose_file.example())
EACH = pytest.mark.parametrize("service", SERVICES.values(), ids=lambda service: service.name)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_clean(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_all_that_is_copied_exists_and_reaches_the_builder(dockerfile: Path) -> None:
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in let_through


def test_the_images_hold_every_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        for pattern in patterns:
            assert f"COPY {pattern.removesuffix('*')} " in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_requirements_are_read_from_pyproject(dockerfile: Path) -> None:
    """Runs the programs that write the Dockerfile's requirement files."""
    programs = re.findall(r'python -c "(import tomllib;[^"]+)"', dockerfile.read_text())
    written = [subprocess.check_output([sys.executable, "-c", p], cwd=ROOT, text=True) for p in programs]
    names = {re.split(r"\W", line)[0] for text in written for line in text.splitlines()}
    assert {"fastapi", "sqlalchemy", "celery"} <= names
    assert ("torch" in names) == (dockerfile.name == "gpu.Dockerfile")


def test_the_images_hold_every_data_file() -> None:
    """What lies among the modules and is no module goes into the wheel only by these patterns."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = tool["package-data"]["*"]
    for package in tool["packages"]["find"]["include"]:
        for path in (ROOT / package.removesuffix("*")).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(path.match(pattern) for pattern in patterns), path


def test_compose_file_keeps_to_the_specification() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_variable_is_explained() -> None:
    outside = {"COMPOSE_PROFILES"}  # compose's own
    assert compose_file.variables() == compose_file.example().keys() - outside


def test_names_point_somewhere() -> None:
    whole = compose_file.read_compose({})
    for service in SERVICES.values():
        mounts = [mount for mount in service.raw.get("volumes", []) if isinstance(mount, str)]
        named = {mount.split(":")[0] for mount in mounts if not mount.startswith("./")}
        assert set(service.secrets) <= whole["secrets"].keys()
        assert named <= whole["volumes"].keys()
        assert set(service.raw.get("networks", [])) <= whole["networks"].keys()
        for mount in mounts:
            assert not mount.startswith("./") or (ROOT / mount.split(":")[0]).exists()
        for name, condition in service.after.items():
            expected = "service_completed_successfully" if SERVICES[name].is_one_shot else "service_healthy"
            assert condition == expected


@EACH
def test_service_is_hardened(service: Service) -> None:
    raw = service.raw
    assert not raw["user"].startswith(("0", "root"))
    assert raw["read_only"] is True
    assert raw["cap_drop"] == ["ALL"]
    assert raw["security_opt"] == ["no-new-privileges:true"]
    assert ":" in raw["image"]
    assert not raw["image"].endswith(":latest")


@EACH
def test_service_that_stays_is_watched_and_restarted(service: Service) -> None:
    if service.is_one_shot:
        assert service.raw["healthcheck"] == {"disable": True} or not service.dockerfile
    else:
        assert service.health
        assert service.raw["stop_grace_period" if service.name != "redis" else "init"]


@EACH
def test_every_setting_exists(service: Service) -> None:
    names = [name for name in service.environment if name.startswith("ATTUNE_") and service.dockerfile]
    if service.dockerfile:
        names += [n for n in compose_file.image_environment(service.dockerfile) if n.startswith("ATTUNE_")]
    for name in names:
        field = name.removeprefix("ATTUNE_").lower()
        assert field in Settings.model_fields or field.removesuffix("_file") in Settings.model_fields, name


@EACH
def test_secrets_come_by_file(service: Service) -> None:
    """Each mounted secret is used, each used one mounted, and no value of one stands in the environment."""
    used = set(re.findall(r"/run/secrets/(\w+)", f"{service.environment} {service.command}"))
    assert used == set(service.secrets)
    for name, value in service.environment.items():
        if re.search("PASSWORD|SECRET|TOKEN|KEY", name):
            assert name.endswith("_FILE")
            assert value.startswith(("/run/secrets/", "/operator/"))


def test_only_the_web_side_is_published() -> None:
    whole = compose_file.read_compose({})
    assert [name for name, service in SERVICES.items() if "ports" in service.raw] == ["web"]
    for name in ("postgres", "redis", "store"):
        networks = SERVICES[name].raw["networks"]
        assert all(whole["networks"][network].get("internal") for network in networks)


def test_every_database_role_is_another() -> None:
    roles = {"migrate": "owner", "web": "web", "worker": "worker", "worker-cpu": "worker", "serve": "worker"}
    for name, role in roles.items():
        assert SERVICES[name].environment["ATTUNE_DATABASE_URL_FILE"] == f"/run/secrets/database_url_{role}"


def test_worker_and_server_of_a_machine_lease_one_device() -> None:
    """A GPU is leased under the host's name and the device's number, so both containers must have the same."""
    for one, other in (("worker", "serve"), ("worker-cpu", "serve-cpu")):
        for key in ("hostname", "deploy"):
            assert SERVICES[one].raw.get(key) == SERVICES[other].raw.get(key)


@pytest.fixture
def secrets_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    subprocess.run([DOCKER / "make-secrets", folder], check=True, capture_output=True)
    return folder


def test_secrets_are_made_once_and_kept_from_others(secrets_folder: Path) -> None:
    made = {path.name: path.read_text() for path in secrets_folder.iterdir()}
    assert made.keys() - {"redis_password"} == compose_file.read_compose({})["secrets"].keys()
    assert secrets_folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets_folder.iterdir()} == {0o444}
    subprocess.run([DOCKER / "make-secrets", secrets_folder], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in secrets_folder.iterdir()}


def test_roles_may_do_their_work_and_no_more(secrets_folder: Path) -> None:
    with services.postgres() as server:  # a cluster of its own: roles belong to the cluster
        service = SERVICES["postgres"]
        env = {name: value.replace("/run/secrets", str(secrets_folder)) for name, value in service.environment.items()}
        compose_file.initialise_postgres(server, service, env)
        password = {role: (secrets_folder / f"{role}_password").read_text() for role in ("owner", "web", "worker")}
        url = {role: server.url("attune", f"attune_{role}", word) for role, word in password.items()}
        env = {**os.environ, "ATTUNE_DATABASE_URL": url["owner"]}
        subprocess.run([sys.executable, "-m", "core.migrate"], env=env, cwd=ROOT, check=True)

        with psycopg.connect(url["owner"], autocommit=True) as owner:
            tables = [row[0] for row in owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert {"jobs", "api_keys"} <= set(tables)
        withheld = {
            "web": set[str](),
            "worker": {
                *("api_keys", "audit_log", "doctor_tasks", "kept_answers", "sign_ins"),
                *("webhook_endpoints", "webhook_deliveries"),
            },
        }
        for role in ("web", "worker"):
            with psycopg.connect(url[role], autocommit=True) as connection:
                for table in set(tables) - {"alembic_version"} - withheld[role]:
                    connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
                for forbidden in ("DROP TABLE jobs", "CREATE TABLE mine (id int)", "TRUNCATE jobs", "CREATE ROLE x"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(forbidden)
        with psycopg.connect(url["web"], autocommit=True) as web:
            web.execute("SELECT * FROM api_keys")
            web.execute("SELECT * FROM audit_log")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                web.execute("UPDATE audit_log SET status = 200")
        with psycopg.connect(url["worker"], autocommit=True) as worker:
            worker.execute("UPDATE jobs SET attempt = attempt")
            reads = [f"SELECT * FROM {table}" for table in withheld["worker"]]
            for forbidden in (*reads, "UPDATE projects SET name = ''"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    worker.execute(forbidden)


def test_the_bucket_is_made_once(s3_server: services.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.settings("made-by-compose").items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        subprocess.run(
            [sys.executable, *SERVICES["store-bucket"].command[1:]],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    open_storage(load_settings()).put_bytes("key", b"text")


def family(name: str) -> str:
    """Of a counter's or a histogram's line."""
    return re.sub("_(total|bucket|count|sum|created)$", "", name)


def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/new.db")
    migrate.upgrade(database)
    counted = Requests()
    counted.count("GET", "/v1/files", 200, 0.1)
    counted.refuse("storage_unavailable", 503)
    shown = set(re.findall(r"^(attune_\w+)", exposition(counted, database).decode(), re.MULTILINE))
    database.close()
    panels = json.loads((ROOT / "docker/grafana.json").read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"attune_\w+", target["expr"])
    }
    assert asked <= shown
    assert {family(name) for name in asked} == {family(name) for name in shown}, "a metric that nobody would see"
