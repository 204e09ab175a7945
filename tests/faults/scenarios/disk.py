"""F25 to F28: writers killed in the middle of a save, power lost under them, and disks without room."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import openai
from sqlalchemy import func, select

from core.models import File, JobEvent
from core.store.objects import STAGING
from tests.faults.history import Intent, training_data
from tests.faults.rig import Rig
from tests.faults.scenarios.database import NO_DISK
from tests.faults.scenarios.listed import EMBEDDED, NotCovered, Outcome, running, scenario
from tests.live import ROOT
from tests.services import end_with_parent

KILLS_EACH = 50  # of F25, for each of the usual times: 1,000 in the normal run
IMAGE_BYTES = 48 * 1024 * 1024
COMMIT_S = 300  # of the file system's own syncing: not while we look
SAME_CODE = "the same code over the same folders in both deployments"
FULL_S, MOMENT_S = 2.0, 0.15
UPLOADS = 5
LONG = 20_000  # times: 3 MB, for which no room is left by chance


def _saver(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.faults.saver", *map(str, arguments)]


@scenario("F25", "kill -9 in the middle of saving snapshots and objects", EMBEDDED, why_not=SAME_CODE)
def killed_savers(rig: Rig, times: int) -> Outcome:
    place = rig.folder / "savers"
    place.mkdir()
    kills = KILLS_EACH * times
    command = _saver("loop", place, "--kills", str(kills))
    done = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.splitlines()[-1])
    shutil.rmtree(place)
    print(f"F25: {done['kills']} kills, {done['landed']} mid-save, {done['acknowledged']} acknowledged saves")
    assert not done["wrong"], done["wrong"][:5]
    assert done["landed"] * 2 >= kills, f"only {done['landed']} of {done['kills']} kills landed in a save"
    return Outcome(done["landed"], 0.0)


@scenario("F26", "power is lost under a writer", EMBEDDED, why_not=SAME_CODE)
def power_lost(rig: Rig, times: int) -> Outcome:
    """The writer's file system is an image behind a loop device. At the moment of the cut the image is copied as it
    is: what nobody synced is in the kernel's memory alone, and so not in the copy, which is then mounted."""
    place, image, cut = rig.folder / "power", rig.folder / "power.img", rig.folder / "cut.img"
    place.mkdir()
    landed = 0
    wrong: list[str] = []
    for turn in range(times):
        acknowledged = rig.folder / f"acknowledged-{turn}"
        acknowledged.touch()
        _make_image(image)
        with _mounted(image, place):
            _write_until_cut(place, acknowledged)
            before = len(list(place.glob("unsynced-*")))
            subprocess.run(["cp", "--sparse=always", image, cut], check=True)
        with _mounted(cut, place):
            left = sum(one.stat().st_size > 0 for one in place.glob("unsynced-*"))
            landed += left < before  # else nothing was cut off
            looked = subprocess.run(
                _saver("verify", place, "--acknowledged", acknowledged), cwd=ROOT, check=True, capture_output=True
            )
            wrong += json.loads(looked.stdout.splitlines()[-1])
    for path in (image, cut):
        path.unlink()
    assert not wrong, wrong[:5]
    return Outcome(landed, 0.0)


def _make_image(image: Path) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    except FileNotFoundError as error:
        raise NotCovered("no mkfs.ext4, for a file system that loses power") from error


@contextmanager
def _mounted(image: Path, place: Path) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-o", f"loop,commit={COMMIT_S}", image, place], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise NotCovered(f"no loop device for a file system that loses power: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def _write_until_cut(place: Path, acknowledged: Path) -> None:
    writer = subprocess.Popen(
        _saver("write", place, "--acknowledged", acknowledged), cwd=ROOT, preexec_fn=end_with_parent
    )
    try:
        deadline = time.monotonic() + 60.0
        while acknowledged.stat().st_size == 0:
            assert writer.poll() is None, "the writer ended"
            assert time.monotonic() < deadline, "the writer has saved nothing"
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()


@scenario("F27", "the disk of the work folder is full while snapshots are saved", share=0.5)
def no_room_for_snapshots(rig: Rig, times: int) -> Outcome:
    """A moment of it costs an event; a job whose snapshots find no room three times in a row says so and fails."""
    if rig.disk is None:
        raise NotCovered(NO_DISK)
    landed, recovery_s = 0, 0.0
    for turn in range(times):
        intent = running(rig, 200)
        intent.may_end = ("succeeded", "failed")
        with rig.disk.full():
            time.sleep(FULL_S if turn % 2 else MOMENT_S)
        recovery_s = max(recovery_s, rig.until_ended([intent]))
        landed += _noticed(rig, intent)
        error = rig.client().fine_tuning.jobs.retrieve(intent.job_id or "").error
        if error is not None and error.code:
            assert error.code == "storage_full", f"{intent.job_id} failed with {error.code}: {error.message}"
    return Outcome(landed, recovery_s)


def _noticed(rig: Rig, intent: Intent) -> bool:
    """Whether the job met the full disk: an event says so, or an attempt ended by it."""
    with rig.database() as database, database.read() as session:
        told = session.scalars(select(JobEvent.message).where(JobEvent.job_id == intent.job_id)).all()
    return any("no room" in text or "disk is full" in text or "ended early" in text for text in told)


@scenario("F28", "there is no room for an upload")
def no_room_for_uploads(rig: Rig, times: int) -> Outcome:
    """Embedded: a full disk. Services: the store refuses with 507. Nothing is registered, and nothing is left."""
    landed = 0
    data = training_data("no room" * LONG)
    for _ in range(times):
        before, staged = _files(rig), _staged(rig)
        with _no_room(rig):
            for _ in range(UPLOADS):
                landed += _must_be_refused(rig, data)
        assert _files(rig) == before, "an upload that was refused left a row"
        assert not _staged(rig) - staged, "an upload that was refused left bytes"
        rig.upload()
    return Outcome(landed, 0.0)


def _must_be_refused(rig: Rig, data: bytes) -> int:
    try:
        taken = rig.client(retries=0).files.create(file=("orders.jsonl", data), purpose="fine-tune")
    except openai.InternalServerError as error:
        if error.status_code not in (503, 507):
            raise
        return 1
    raise AssertionError(f"{taken.id} was taken without room for it")


def _no_room(rig: Rig) -> AbstractContextManager[None]:
    if rig.store is not None:
        return rig.store.answering("full", 1.0)
    if rig.disk is None:
        raise NotCovered(NO_DISK)
    return rig.disk.full()


def _files(rig: Rig) -> int:
    with rig.database() as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(File)) or 0


def _staged(rig: Rig) -> set[str]:
    """Files in the making. Those of processes that were killed before stay until they are a day old."""
    return {path.name for path in (rig.data / "objects" / STAGING).iterdir()} if rig.kind == "embedded" else set()
