"""F20 to F24: S3 is away, overloaded, or loses answers; what comes back is short, or holds other bytes."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import openai
from sqlalchemy import select

from core.models import Snapshot
from tests.faults.history import Intent
from tests.faults.proxy import Mode
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import SERVICES, Outcome, busy, running, scenario

NO_STORE = "a folder is no server"
AWAY_S = 5.0


def _outage(rig: Rig, times: int, mode: Mode, seconds: float) -> Outcome:
    """Away for a while, with jobs running, and others asked for meanwhile."""
    landed, recovery_s = 0, 0.0
    proxy = rig.proxies["s3"]
    for _ in range(times):
        intents = [running(rig, 120)]
        file_id = rig.upload()
        before = proxy.seen.hit
        with proxy.being(mode):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                with suppress(openai.APIError):
                    intents.append(rig.create(file_id, 12, rig.client(retries=0)))
                time.sleep(0.5)
        landed += proxy.seen.hit - before
        recovery_s = max(recovery_s, rig.until_ended(intents))
    return Outcome(landed, recovery_s)


@scenario("F20", "S3 is away during training", SERVICES, share=0.25, why_not=NO_STORE)
def away(rig: Rig, times: int) -> Outcome:
    return _outage(rig, times, Mode.REFUSE, AWAY_S)


@scenario("F21", "S3 answers 503 to one call in five", SERVICES, why_not=NO_STORE)
def slow_down(rig: Rig, times: int) -> Outcome:
    assert rig.store is not None
    before = rig.store.hits
    with rig.store.answering("slow_down", 0.2):
        intents = [rig.create(rig.upload(), 30) for _ in range(times)]
        recovery_s = rig.until_ended(intents)
    return Outcome(rig.store.hits - before, recovery_s)


@scenario("F22", "S3 takes a put, and its answer is lost", SERVICES, share=0.25, why_not=NO_STORE)
def answers_lost(rig: Rig, times: int) -> Outcome:
    return _outage(rig, times, Mode.CUT_ANSWER, 2.0)


@scenario("F23", "downloads from S3 are cut short or hold other bytes", SERVICES, share=0.5, why_not=NO_STORE)
def spoilt(rig: Rig, times: int) -> Outcome:
    """While a worker fetches what it resumes from, and users read their files."""
    assert rig.store is not None
    before, recovery_s = rig.store.hits, 0.0
    client = rig.client(retries=2)
    for turn in range(times):
        intent = running(rig, 100)
        file_id = rig.upload()
        with rig.store.answering("truncated" if turn % 2 else "corrupted", 0.5):
            busy(rig, intent).kill()
            for _ in range(6):
                try:
                    content = client.files.content(file_id).read()
                except (openai.APIError, OSError):
                    continue
                except Exception as error:
                    if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
                        raise
                    continue  # the body broke off, as it should
                assert content == rig.history.files[file_id], f"{file_id} was answered whole, with other bytes"
            time.sleep(1.0)
        recovery_s = max(recovery_s, rig.until_ended([intent]))
    return Outcome(rig.store.hits - before, recovery_s)


@scenario("F24", "the newest snapshot has flipped bits")
def flipped(rig: Rig, times: int) -> Outcome:
    """Then the worker is killed: an older one, or the start, is gone on from."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intent = running(rig, 100)
        part = busy(rig, intent)
        part.kill()
        landed += _flip_newest(rig, intent)
        recovery_s = max(recovery_s, rig.until_ended([intent]))
    return Outcome(landed, recovery_s)


def _flip_newest(rig: Rig, intent: Intent) -> bool:
    newest_first = select(Snapshot).where(Snapshot.job_id == intent.job_id).order_by(Snapshot.step.desc())
    with rig.database() as database, database.read() as session:
        newest = session.scalars(newest_first).first()
    if newest is None:
        return False

    def flip(content: bytes) -> bytes:
        at = random.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    rig.overwrite(newest.storage_key, flip)
    return True
