"""The lease of a shared GPU, on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import devices
from core.db import Database

GPU = "host/cuda:0"


def acquire(database: Database, holder: str, ttl_s: float = 60.0) -> bool:
    with database.begin() as session:
        return devices.acquire(session, GPU, holder, ttl_s)


def release(database: Database, holder: str) -> None:
    with database.begin() as session:
        devices.release(session, GPU, holder)


def wanted(database: Database, holder: str) -> bool:
    with database.read() as session:
        return devices.is_wanted(session, GPU, holder)


def test_only_gpus_are_leased() -> None:
    assert devices.device_id("host", "cpu") is None
    assert devices.device_id("host", "cuda") == devices.device_id("host", "cuda:0") == GPU
    assert devices.device_id("host", "cuda:1") == "host/cuda:1"


def test_one_holds_and_the_loser_is_seen_and_comes_next(database: Database) -> None:
    assert acquire(database, "server")
    assert acquire(database, "server"), "asking again renews"
    assert not wanted(database, "server")
    assert not acquire(database, "engine")
    assert wanted(database, "server")
    assert not acquire(database, "third"), "one waits already"
    with database.begin() as session:
        assert devices.renew(session, GPU, "server", 60.0), "to be wanted is not to be thrown out"
        assert not devices.renew(session, GPU, "engine", 60.0)
    release(database, "engine")
    assert not wanted(database, "server"), "the turn was given up"
    assert not acquire(database, "engine")
    release(database, "server")
    assert not acquire(database, "server"), "it is the engine's turn"
    assert acquire(database, "engine")
    assert not wanted(database, "third")
    with database.read() as session:
        assert devices.holder_of(session, GPU) == "engine"


def test_a_lease_that_ended_is_free_and_its_holder_learns_it(database: Database) -> None:
    assert acquire(database, "server", 0.05)
    time.sleep(0.1)
    assert acquire(database, "engine")
    with database.begin() as session:
        assert not devices.renew(session, GPU, "server", 60.0)
    release(database, "server")
    assert not acquire(database, "server"), "a late release takes nothing from the new holder"


def test_a_turn_that_is_not_asked_for_again_is_lost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "TURN_S", 0.05)
    assert acquire(database, "server")
    assert not acquire(database, "engine")
    release(database, "server")
    time.sleep(0.1)
    assert acquire(database, "server")


def test_of_many_takers_one_wins(database: Database) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda number: acquire(database, f"taker {number}"), range(8)))
        assert taken.count(True) == 1
        for number in range(8):
            release(database, f"taker {number}")
