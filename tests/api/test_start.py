"""The web side as it starts while a part of it is away: it says so, and works once the part is back."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import httpx
import pytest

from core import first_key, migrate
from core.db import open_database
from core.settings import Settings
from tests.faults.proxy import Mode, Proxy
from tests.live import ROOT
from tests.services import Postgres, free_port, port_answers, program

BACK_S = 30.0


@pytest.fixture
def settings(tmp_path: Path, postgres_server: Postgres, postgres_url: str) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", database_url=postgres_url, port=free_port())
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    first_key.ensure_first_key(database, settings.resolved_operator_key_file)
    database.close()
    return settings


def test_a_web_process_that_starts_without_its_database_tells_so_and_works_when_it_is_back(
    settings: Settings, postgres_server: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    proxy, log = Proxy(postgres_server.port), tmp_path / "web.log"
    own = {
        "ATTUNE_DATA_DIR": str(settings.data_dir),
        "ATTUNE_DATABASE_URL": postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/"),
        "ATTUNE_JANITOR_INTERVAL_S": "0.5",
        "ATTUNE_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(settings.port), "--no-access-log"]
    headers = {"Authorization": f"Bearer {settings.resolved_operator_key_file.read_text().strip()}"}
    proxy.set(Mode.REFUSE)
    try:
        with (
            program(command, log=log, ready=lambda: port_answers(settings.port), env={**os.environ, **own}, cwd=ROOT),
            httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", headers=headers, trust_env=False) as http,
        ):
            assert http.get("/healthz").status_code == 200
            assert http.get("/readyz").status_code == 503
            refused = http.get("/v1/fine_tuning/jobs")
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            while "preparation_waits" not in log.read_text():  # the child of the web process waits, too
                time.sleep(0.1)
            proxy.set(Mode.PASS)
            deadline = time.monotonic() + BACK_S
            while not _works(http):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
    finally:
        proxy.close()
    said = log.read_text()
    assert "database_is_away" in said
    assert "preparation_ended" not in said
    assert "Traceback" not in said


def _works(http: httpx.Client) -> bool:
    """Ready, and the catalog that could not be written at start is there."""
    if http.get("/readyz").status_code != httpx.codes.OK:
        return False
    bases = http.get("/v1/attune/base_models")
    return bases.status_code == httpx.codes.OK and bool(bases.json()["data"])
