"""Looks that are shared: nobody waits for company, sees less than there was, or pays for another's mistake."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest

from api.together.together import AT_ONCE, MOST, Together
from core.access import tenancy
from core.errors import AttuneError, NotFound, Unavailable


class Looks:
    """Answers a number with itself and the look's, once it may."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, list[int]]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, project_id: str, asked: Sequence[int]) -> dict[int, tuple[int, int] | Exception]:
        self.made.append((project_id, tenancy.current(), list(asked)))
        number = len(self.made)
        assert self.go.wait(20)
        if 13 in asked:
            raise ValueError("thirteen")
        if 99 in asked:
            raise Unavailable("the database is away")
        return {one: NotFound(f"no {one}") if one < 0 else (one, number) for one in asked}


async def several(looks: Looks, asked: Sequence[int]) -> dict[int, object]:
    together = Together(looks)
    found: dict[int, object] = {}
    looks.go.clear()

    async def one(number: int) -> None:
        try:
            found[number] = (await together.ask("proj_1", number))[0]
        except (AttuneError, ValueError) as error:
            found[number] = str(error)

    async with anyio.create_task_group() as tasks:
        for place, number in enumerate(asked):
            tasks.start_soon(one, number)
            while len(looks.made) < min(place + 1, AT_ONCE):  # the first come alone, the others while they are answered
                await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        looks.go.set()
    return found


def test_who_comes_while_looks_are_made_shares_the_next() -> None:
    looks = Looks()
    numbers = list(range(100, 100 + AT_ONCE + MOST + 5))
    assert anyio.run(several, looks, numbers) == {number: number for number in numbers}
    assert [len(asked) for _, _, asked in looks.made[:AT_ONCE]] == [1] * AT_ONCE, "nobody waited for company"
    assert sorted(len(asked) for _, _, asked in looks.made[AT_ONCE:]) == [5, MOST]


def test_a_look_that_has_begun_answers_none_who_comes_later() -> None:
    looks = Looks()
    looks.go.clear()

    async def run() -> list[int]:
        together = Together(looks)
        numbers: list[int] = []

        async def ask() -> None:
            numbers.append((await together.ask("proj_1", 1))[1])

        async with anyio.create_task_group() as tasks:
            for already in range(AT_ONCE):
                tasks.start_soon(ask)
                while len(looks.made) == already:
                    await anyio.sleep(0.001)
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            looks.go.set()
        return sorted(numbers)

    assert anyio.run(run) == [*range(1, AT_ONCE + 1), *[AT_ONCE + 1] * 3], "the last three share one"


def test_each_has_its_own_answer_and_its_own_error() -> None:
    found = anyio.run(several, Looks(), [1, 2, 3, -4, 13])
    assert found == {1: 1, 2: 2, 3: 3, -4: "no -4", 13: "thirteen"}


def test_a_database_that_is_away_is_asked_once_for_all() -> None:
    looks = Looks()
    found = anyio.run(several, looks, [1, 2, 3, 99])
    assert (found[3], found[99]) == ("the database is away",) * 2
    assert [asked for _, _, asked in looks.made] == [[1], [2], [3, 99]]


def test_no_two_projects_and_no_tenant_and_operator_share_a_look() -> None:
    looks = Looks()

    async def run() -> None:
        together = Together(looks)
        for project_id, within in (("proj_1", "proj_1"), ("proj_2", "proj_2"), ("proj_1", tenancy.EVERY)):
            with tenancy.within(within):
                assert (await together.ask(project_id, 1))[0] == 1

    anyio.run(run)
    assert [(project_id, within) for project_id, within, _ in looks.made] == [
        ("proj_1", "proj_1"),
        ("proj_2", "proj_2"),
        ("proj_1", tenancy.EVERY),
    ]


def test_an_asker_who_leaves_takes_nobody_along() -> None:
    looks = Looks()
    looks.go.clear()

    async def run() -> tuple[int, int]:
        together = Together(looks)
        with anyio.move_on_after(0.05) as left:
            await together.ask("proj_1", 1)
        assert left.cancelled_caught
        async with anyio.create_task_group() as tasks:
            found: list[tuple[int, int]] = []

            async def ask() -> None:
                found.append(await together.ask("proj_1", 2))

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            looks.go.set()
        return found[0]

    assert anyio.run(run)[0] == 2


@pytest.mark.parametrize("number", [13, 99])
def test_one_alone_is_looked_at_once(number: int) -> None:
    looks = Looks()

    async def run() -> None:
        with pytest.raises((ValueError, Unavailable)):
            await Together(looks).ask("proj_1", number)

    anyio.run(run)
    assert len(looks.made) == 1
