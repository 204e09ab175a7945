"""Large bodies: one file of a gigabyte, three at once beside small requests, and the checking of one alone."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from core.data.examples import Checker
from tests.bench.upload import MB, MIB, READ_BYTES, at_once, form, measured, write_training_file
from tests.load.deployment import Deployment, generated, piped
from tests.load.figures import Floor, Row
from tests.load.generator import Plan
from tests.load.requests import GET, failures

FILE_BYTES = 1024 * MIB
AT_ONCE = 3
IDLE_S = 3.0
BESIDE_S = 20.0


def measure(place: Deployment, size: int = FILE_BYTES) -> list[Row]:
    path = place.folder / "large.jsonl"
    examples = write_training_file(path, size)
    project, key = place.tenant("large")
    ids = place.copies(place.prepared_job(key, place.file(key)), 1000, status="succeeded", project_id=project)
    time.sleep(IDLE_S)
    idle_bytes = place.web.memory_info().rss
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=place.address, headers=headers, timeout=600, trust_env=False) as http:
        one = measured(http, place.web, idle_bytes, path, examples, at_once)
    rows = [
        Row(
            f"upload of {size / MIB:.0f} MiB",
            [
                (Floor("upload_mb_per_s", 60, "MB/s", at_least=True), one.mb_per_s),
                (Floor("upload_rss_growth_mib", 64, "MiB"), one.growth_mib),
            ],
        ),
        _beside(place, key, ids, path),
    ]
    checked = piped("tests.load.bodies", b"", [str(path)])
    figures = [
        (Floor("validate_mb_per_s", 50, "MB/s", at_least=True), checked["mb_per_s"]),
        (Floor("validate_rss_mib", 200, "MiB"), checked["rss_mib"]),
    ]
    return [*rows, Row(f"check of {size / MIB:.0f} MiB of JSONL, alone", figures, errors=checked["errors"])]


def _beside(place: Deployment, key: str, ids: list[str], path: Path) -> Row:
    """Small requests over 8 connections while files come in without a pause."""
    over_at = time.monotonic() + BESIDE_S

    def send() -> int:
        sent = 0
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=x"}
        with httpx.Client(base_url=place.address, headers=headers, timeout=600, trust_env=False) as http:
            while time.monotonic() < over_at:
                http.post("/v1/files", content=form(path)).raise_for_status()
                sent += 1
        return sent

    with ThreadPoolExecutor(AT_ONCE) as pool:
        senders = [pool.submit(send) for _ in range(AT_ONCE)]
        report = generated(Plan(place.address, [key], [GET], BESIDE_S, 8, ids=ids))
        sent = sum(one.result() for one in senders)
    return Row(
        f"GET beside {AT_ONCE} uploads at once",
        [(Floor("get_beside_uploads_p99_ms", 250, "ms"), report["p99_ms"])],
        report["p50_ms"],
        report["p99_ms"],
        failures(report),
        f"{sent} files sent",
    )


def _check(path: Path) -> None:
    """In a process of its own, of which this is all."""
    checker = Checker()
    begun = time.perf_counter()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            checker.feed(block)
    summary = checker.finish()
    took_s = time.perf_counter() - begun
    mb_per_s = path.stat().st_size / MB / took_s
    print(json.dumps({"mb_per_s": mb_per_s, "rss_mib": _peak_mib(), "errors": summary.error_count}))


def _peak_mib() -> float:
    """(Not `ru_maxrss`: that begins at what the program that started this one held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    _check(Path(sys.argv[1]))
