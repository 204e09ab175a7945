"""The web side as it is started: `uvicorn api.app:app` with its child and janitor, its memory, its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from core import first_key, migrate
from core.db import open_database
from core.settings import Settings
from tests.api.place import examples
from tests.services import free_port

ROOT = Path(__file__).parent.parent.parent
UPLOAD_BYTES = 64 * 1024 * 1024
GROWTH_BYTES = 64 * 1024 * 1024


Program = tuple[int, httpx.Client]  # its process, and a client with the operator's key


@pytest.fixture(scope="module", params=["folder", "s3"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("program")
    env = {**os.environ, "ATTUNE_DATA_DIR": str(data), "ATTUNE_LOG_LEVEL": "warning"}
    if request.param == "s3":
        s3 = request.getfixturevalue("s3_server")
        env |= s3.settings(s3.create_bucket())
    settings = Settings(data_dir=data)
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    first_key.ensure_first_key(database, settings.resolved_operator_key_file)
    database.close()
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(port), "--no-access-log"]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, env=env)
    key = settings.resolved_operator_key_file.read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, trust_env=False, verify=False
    ) as http:
        deadline = time.monotonic() + 60
        while True:
            try:
                if http.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        yield process.pid, http
    process.terminate()
    assert process.wait(15) in (0, -15)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_c29_a_large_upload_takes_flat_memory(program: Program) -> None:
    pid, http = program
    web = psutil.Process(pid)
    line = examples(1, "word " * 3000)
    count = UPLOAD_BYTES // len(line)
    http.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": "fine-tune"}).raise_for_status()
    before = web.memory_info().rss
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, web.memory_info().rss)

    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for _ in range(count):
            yield line
        yield b"\r\n--x--\r\n"

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = http.post("/v1/files", content=form(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    done.set()
    watcher.join()
    file = answer.raise_for_status().json()
    assert (file["bytes"], file["status"], file["attune"]["examples"]) == (count * len(line), "processed", count)
    print(f"{before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most")
    assert peak - before <= GROWTH_BYTES, f"{(peak - before) / 2**20:.0f} MiB more"
    assert web.memory_info().rss < 250 * 1024 * 1024
    with http.stream("GET", f"/v1/files/{file['id']}/content") as content:
        assert sum(len(chunk) for chunk in content.iter_bytes()) == file["bytes"]
