"""A key is looked up again soon, at once after a change, and never once for what came before a change."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from api.gate import recent
from api.gate.recent import Recent
from core.access.projects import Principal, Scope
from core.errors import AttuneError

WHO = Principal("proj_a", "a", "key_a", False, "a", frozenset(Scope))


async def _send(_: object) -> None:
    pass


def test_a_key_is_looked_up_once_until_something_changes() -> None:
    looked_up: list[str] = []

    async def look_up() -> Principal:
        looked_up.append("key")
        return WHO

    async def ask() -> None:
        known = Recent()
        for _ in range(3):
            assert await known.find("key", None, None, look_up) == WHO
        assert len(looked_up) == 1
        await known.find("key", "proj_b", None, look_up)  # another question
        assert len(looked_up) == 2
        await known.forgetting(_send)({"type": "http.response.start"})
        await known.find("key", None, None, look_up)
        assert len(looked_up) == 3

    asyncio.run(ask())


def test_a_key_that_was_revoked_while_it_was_looked_up_is_not_remembered() -> None:
    async def ask() -> None:
        known = Recent()

        async def revoked_meanwhile() -> Principal:
            await known.forgetting(_send)({"type": "http.response.start"})
            return WHO

        async def refused() -> Principal:
            raise AttuneError("revoked", code="invalid_api_key", status=401)

        await known.find("key", None, None, revoked_meanwhile)
        with pytest.raises(AttuneError):
            await known.find("key", None, None, refused)

    asyncio.run(ask())


def test_nothing_is_believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(recent, "time", SimpleNamespace(monotonic=lambda: now))
    looked_up: list[float] = []

    async def look_up() -> Principal:
        looked_up.append(now)
        return WHO

    async def ask() -> None:
        nonlocal now
        known = Recent()
        for _ in range(4):
            await known.find("key", None, None, look_up)
            now += recent.RENEWED_S / 2

    asyncio.run(ask())
    assert looked_up == [100.0, 100.0 + recent.RENEWED_S]


def test_one_renews_what_many_ask_and_none_believes_it_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(recent, "time", SimpleNamespace(monotonic=lambda: now))
    looked_up: list[float] = []

    async def ask() -> None:
        nonlocal now
        known, answered = Recent(), asyncio.Event()

        async def look_up() -> Principal:
            looked_up.append(now)
            await answered.wait()
            return WHO

        answered.set()
        await known.find("key", None, None, look_up)
        answered.clear()
        now += recent.RENEWED_S
        renewing = asyncio.create_task(known.find("key", None, None, look_up))
        await asyncio.sleep(0)
        for _ in range(3):
            assert await known.find("key", None, None, look_up) == WHO
        assert len(looked_up) == 2
        now = 100.0 + recent.HELD_S
        late = asyncio.create_task(known.find("key", None, None, look_up))
        await asyncio.sleep(0)
        assert len(looked_up) == 3
        answered.set()
        assert await renewing == await late == WHO

    asyncio.run(ask())
