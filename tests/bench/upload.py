"""`make bench-upload`: one 512 MB training file, uploaded to and validated by a web process of its own.

Measures throughput from the first byte sent to the answer, and how much the web process grows meanwhile. Prints a
table and ends in one line of JSON: the median throughput of the repeats and the largest growth. The same file in
parts, by the official client, is a line of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from core import first_key, migrate
from core.db import open_database
from core.settings import Settings
from tests.live import ROOT
from tests.services import free_port

MB = 1_000_000
MIB = 1024 * 1024
FILE_BYTES = 512 * MIB  # the most that /v1/files takes
READ_BYTES = 1024 * 1024
IDLE_S = 3.0  # after the start, before memory is read
TEXT = (
    "the order was delivered late and the box was open so please send a new one or refund what I paid for it "
    "thank you for writing to us I am sorry to hear that and have asked the warehouse to look into your invoice "
    "naïve café “quoted” number price address account week shipment return label support customer question answer"
)


Way = Callable[[httpx.Client, Path], dict[str, Any]]


@dataclass(frozen=True)
class Upload:
    mb_per_s: float
    growth_mib: float
    cpu_s: float  # of the web process


def write_training_file(path: Path, size: int = FILE_BYTES) -> int:
    """A file of chats with two answers each, of at most `size` bytes; returns how many examples."""
    random_ = random.Random(1)
    words = TEXT.split()
    texts = (" ".join(random_.choices(words, k=random_.randint(10, 90))) for _ in range(20_000))
    turns = [json.dumps(text + "\n", ensure_ascii=False) for text in texts]
    roles = ("system", "user", "assistant", "user", "assistant")
    written = examples = 0
    with path.open("wb") as file:
        while True:
            messages = [f'{{"role": "{role}", "content": {random_.choice(turns)}}}' for role in roles]
            line = f'{{"messages": [{", ".join(messages)}]}}\n'.encode()
            if written + len(line) > size:
                return examples
            file.write(line)
            written += len(line)
            examples += 1


@contextmanager
def web_process(data: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """(address, key, process) of a web side that was started as `attune up` starts it."""
    settings = Settings(data_dir=data, log_level="warning")
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    first_key.ensure_first_key(database, settings.resolved_operator_key_file)
    database.close()
    port = free_port()
    with (data / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(port), "--no-access-log"],
            cwd=ROOT,
            env={**os.environ, "ATTUNE_DATA_DIR": str(data), "ATTUNE_LOG_LEVEL": "warning"},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process, data / "web.log")
        yield address, settings.resolved_operator_key_file.read_text().strip(), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the web process ended: {log.read_text()[-3000:]}")
        try:
            if httpx.get(f"{address}/readyz", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise TimeoutError(f"the web process did not become ready: {log.read_text()[-3000:]}")


class Peak:
    """The largest resident size of a process within the block, in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process = process
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._ending.wait(0.02):
                return

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


FORM_HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="train.jsonl"\r\n\r\n'
)
FORM_TAIL = b"\r\n--x--\r\n"


def form(path: Path) -> Iterator[bytes]:
    yield FORM_HEAD
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            yield block
    yield FORM_TAIL


def at_once(http: httpx.Client, path: Path) -> dict[str, Any]:
    """The file as the answer to one request shows it."""
    length = len(FORM_HEAD) + path.stat().st_size + len(FORM_TAIL)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(length)}
    return http.post("/v1/files", content=form(path), headers=headers).raise_for_status().json()


def in_parts(http: httpx.Client, path: Path) -> dict[str, Any]:
    """The same by the official client, in its parts of 64 MB; they are checked and composed when the last is there."""
    key = http.headers["Authorization"].removeprefix("Bearer ")
    with OpenAI(base_url=str(http.base_url.join("/v1")), api_key=key, max_retries=0) as client:
        done = client.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="fine-tune")
    assert done.file is not None
    return http.get(f"/v1/files/{done.file.id}").raise_for_status().json()


def measured(
    http: httpx.Client, process: psutil.Process, idle_bytes: int, path: Path, examples: int, way: Way
) -> Upload:
    cpu = process.cpu_times()
    started = time.perf_counter()
    with Peak(process) as peak:
        file = way(http, path)
    seconds = time.perf_counter() - started
    spent = process.cpu_times()
    assert (file["status"], file["attune"]["examples"]) == ("processed", examples), file
    assert file["bytes"] == path.stat().st_size
    http.delete(f"/v1/files/{file['id']}").raise_for_status()
    return Upload(
        mb_per_s=file["bytes"] / MB / seconds,
        growth_mib=(peak.bytes - idle_bytes) / MIB,
        cpu_s=spent.user + spent.system - cpu.user - cpu.system,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats: int = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        examples = write_training_file(path)
        size = path.stat().st_size
        with web_process(Path(folder)) as (address, key, process):
            time.sleep(IDLE_S)
            idle_bytes = process.memory_info().rss
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=address, headers=headers, timeout=600, trust_env=False) as http:
                done = [measured(http, process, idle_bytes, path, examples, at_once) for _ in range(repeats)]
                parts = measured(http, process, idle_bytes, path, examples, in_parts)
    table = Table(title=f"{size / MIB:.0f} MiB, {examples} examples of {size // examples} bytes on average")
    for heading in ("upload", "MB/s (goal 60)", "growth over idle, MiB (goal 64)", "CPU seconds of the web process"):
        table.add_column(heading)
    rows = [*((str(number), each) for number, each in enumerate(done, 1)), ("in parts", parts)]
    for name, each in rows:
        table.add_row(name, f"{each.mb_per_s:.1f}", f"{each.growth_mib:.1f}", f"{each.cpu_s:.1f}")
    Console().print(table)
    figures = {
        "mb_per_s": round(statistics.median(each.mb_per_s for each in done), 1),
        "rss_growth_mib": round(max(each.growth_mib for each in done), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
