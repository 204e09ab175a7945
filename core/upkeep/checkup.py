"""`attune doctor`: does every part that a deployment stands on do what is asked of it, and what to do if not.

Each check does the real thing once: a row is read, an object is written and refused to be overwritten, a ring is
heard. Nothing here changes anything that stays.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import redis
from packaging.requirements import Requirement
from sqlalchemy import select

from core import workers
from core.access import row_security
from core.db import Database, db_now
from core.errors import AttuneError
from core.serving import servers
from core.settings import Settings
from core.store.storage import Storage, StorageConflict, open_storage
from core.upkeep import readiness

MIN_FREE_BYTES = 10 * 1024**3
MAX_SKEW_S = 2.0
PATIENCE_S = 5.0


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and may not for long
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """What one check saw; `advice` says what to do, and is empty where all is well."""

    name: str
    state: State
    detail: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding after another, as they are made; none raises."""
    yield from _versions()
    yield _disk("data folder", settings.data_dir)
    yield from _database(settings)
    yield _storage(settings)
    yield _broker(settings)
    yield _web(settings)


def _versions() -> Iterator[Finding]:
    """Python, and the packages that are installed otherwise than Attune asks for."""
    yield Finding("python", State.OK, ".".join(map(str, sys.version_info[:3])))
    wrong: list[str] = []
    for line in requires("attune") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": "gpu"}):
            continue
        only_gpu = needed.marker is not None and not needed.marker.evaluate({"extra": ""})
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            if not only_gpu:
                wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found}, not {needed.specifier}")
    if wrong:
        yield Finding(
            "packages", State.ERROR, "; ".join(wrong), "Install again: pip install -U -e '.[gpu]', or make install."
        )
    else:
        yield Finding("packages", State.OK, f"Attune {version('attune')}, everything as it asks for")


def _disk(name: str, folder: Path) -> Finding:
    try:
        probe = folder / f".doctor-{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            name, State.ERROR, f"{folder}: {error.strerror}", "`attune up` makes it where this user may; see --data."
        )
    detail = f"{folder.resolve()}, {free / 1024**3:.0f} GiB free"
    if free < MIN_FREE_BYTES:
        return Finding(
            name, State.WARNING, detail, "Free some: snapshots, downloads of bases and uploads need room to be written."
        )
    return Finding(name, State.OK, detail)


def _database(settings: Settings) -> Iterator[Finding]:
    """The database, its revision, its clock, and who has signed in there."""
    url = settings.resolved_database_url
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).is_file():  # opening it would make it
        yield Finding(
            "database", State.ERROR, f"no {url.removeprefix('sqlite:///')}", "Run `attune up`, or see --data."
        )
        return
    try:
        database = Database(url, pool_size=1)
        before = time.time()
        with database.read() as session:
            now = session.scalar(select(db_now())) or 0.0
        after = time.time()
    except AttuneError as error:
        advice = "Start it, or mend ATTUNE_DATABASE_URL."
        yield Finding("database", State.ERROR, error.message, advice)
        return
    kind = "SQLite" if database.is_sqlite else "Postgres"
    yield Finding("database", State.OK, f"{kind} answers in {1000 * (after - before):.0f} ms")
    behind = readiness.migrations(database)
    yield (
        Finding("migrations", State.OK, "newest")
        if behind == "ok"
        else Finding("migrations", State.ERROR, behind, "Run `python -m core.migrate`; `attune up` does.")
    )
    skew_s = now - (before + after) / 2
    if abs(skew_s) > MAX_SKEW_S + (after - before):
        advice = "Run NTP on both machines: leases go by the database's clock, signed URLs and webhooks by this one's."
        yield Finding("clock", State.WARNING, f"the database is {skew_s:+.1f} s off this machine", advice)
    else:
        yield Finding("clock", State.OK, f"{1000 * skew_s:+.0f} ms between the database and this machine")
    if behind == "ok":
        if not database.is_sqlite:
            yield _tenants(database)
        yield from _company(database)
    database.close()


def _tenants(database: Database) -> Finding:
    """Does the database hold tenants apart for this connection?"""
    with database.read() as session:
        weakness = row_security.weakness(session.connection())
    if weakness is None:
        return Finding("row-level security", State.OK, "each tenant's requests see its own rows")
    return Finding(
        "row-level security",
        State.WARNING,
        weakness,
        "Connect as a role that is no superuser and has no BYPASSRLS, straight or through a pooler that passes "
        "`options` on; the tables' owner is held too. See docs/operations.md.",
    )


def _company(database: Database) -> Iterator[Finding]:
    """Workers and servers alive, and whether they run one version."""
    with database.read() as session:
        alive = workers.alive(session)
        serving = servers.alive(session)
    if alive:
        seen = sorted({str(worker.versions.get("attune", "unknown")) for worker in alive})
        names = ", ".join(f"{worker.id} ({worker.device_name}, {worker.state})" for worker in alive)
        mixed = seen != [version("attune")]
        yield Finding(
            "workers",
            State.WARNING if mixed else State.OK,
            f"{names}: version {', '.join(seen)}" if mixed else names,
            f"Bring all to {version('attune')}: drain them (SIGTERM) and start the new version." if mixed else "",
        )
    else:
        yield Finding("workers", State.WARNING, "none alive", "Jobs wait until one is started: see README.")
    yield (
        Finding("servers", State.OK, f"{len(serving)} alive")
        if serving
        else Finding(
            "servers", State.WARNING, "none alive", "Chat answers 503 until one is started: python -m worker.serve."
        )
    )


def _storage(settings: Settings) -> Finding:
    advice = "Start it, or mend ATTUNE_STORAGE_URL and the ATTUNE_S3_… settings."
    url = urlsplit(settings.resolved_storage_url)
    if url.scheme == "file" and not Path(unquote(url.path)).is_dir():
        return Finding("storage", State.ERROR, f"no folder {unquote(url.path)}", "Run `attune up`, or see --data.")
    try:
        storage = open_storage(settings)
        return _write_once(storage)
    except AttuneError as error:
        return Finding("storage", State.ERROR, error.message, advice)


def _write_once(storage: Storage) -> Finding:
    """Write, refuse other bytes, read and delete one object."""
    key = f"doctor/{secrets.token_hex(16)}"
    started = time.monotonic()
    try:
        stored = storage.put_bytes(key, b"first")
        try:
            storage.put_bytes(key, b"other")
        except StorageConflict:
            pass
        else:
            return Finding(
                "storage",
                State.ERROR,
                f"{storage.address} let an object be overwritten",
                "Use a store that honours If-None-Match: *, such as AWS S3, SeaweedFS or Ceph.",
            )
        read = b"".join(storage.open(key))
        if read != b"first":
            detail = f"{storage.address} gave back {len(read)} bytes other than the {stored.bytes} written"
            return Finding("storage", State.ERROR, detail, "Have the store examined before it holds anything of worth.")
    finally:
        storage.delete(key)
    return Finding(
        "storage", State.OK, f"{storage.address} writes once, reads and deletes ({time.monotonic() - started:.2f} s)"
    )


def _broker(settings: Settings) -> Finding:
    url = urlsplit(settings.resolved_broker_url)
    if url.scheme == "filesystem":
        return _disk("broker", Path(unquote(url.path)))
    advice = "Start Redis, or mend ATTUNE_BROKER_URL. Meanwhile jobs start late: workers look by themselves."
    try:
        with redis.Redis.from_url(
            settings.resolved_broker_url, socket_connect_timeout=PATIENCE_S, socket_timeout=PATIENCE_S
        ) as client:
            client.ping()
            server = client.info("server")
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding("broker", State.ERROR, f"{url.hostname}: {error}", advice)
    return Finding("broker", State.OK, f"Redis {server.get('redis_version', '?')} answers")  # pyright: ignore[reportAttributeAccessIssue]


def _web(settings: Settings) -> Finding:
    """Asked from this machine, as the supervisor asks it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    address = f"http://{host}:{settings.port}"
    try:
        answer = httpx.get(f"{address}/readyz", timeout=PATIENCE_S, trust_env=False)
        parts: dict[str, str] = answer.json()["parts"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        advice = "Start it with `attune up`, or give its ATTUNE_HOST and ATTUNE_PORT."
        return Finding("web", State.WARNING, f"{address} does not answer as Attune does: {error}", advice)
    wrong = [f"{name}: {state}" for name, state in parts.items() if state != "ok"]
    if wrong:
        return Finding("web", State.ERROR, f"{address} is not ready: {'; '.join(wrong)}", "See the parts above.")
    return Finding("web", State.OK, f"{address} is ready")
