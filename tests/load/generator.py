"""`python -m tests.load.generator`: a plan of HTTP calls on stdin, how they were answered as JSON on stdout.

A process of its own, so that it takes no turn from whom it measures. With a rate, calls leave on time whether or
not earlier ones were answered, and each is timed from the moment it was due.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count

import aiohttp

ABORT_S = 60.0  # of one call


@dataclass(frozen=True)
class Call:
    """`path` and `body` may hold {id}, one of the plan's ids, and {n}, a number that no other call gets."""

    name: str
    path: str
    method: str = "GET"
    body: str = ""
    content_type: str = "application/json"
    weight: int = 1


@dataclass(frozen=True)
class Plan:
    """`rate`: calls a second, or None to keep every connection busy."""

    address: str
    keys: Sequence[str]
    calls: Sequence[Call]
    seconds: float
    connections: int = 32
    rate: float | None = None
    ids: Sequence[str] = ()
    first: int = 0  # of the numbers {n}


@dataclass
class Seen:
    """What came of the calls of one name. Times in seconds."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    accepted_s: list[float] = field(default_factory=list[float])
    refused_s: list[float] = field(default_factory=list[float])
    without_retry_after: int = 0
    broken: Counter[str] = field(default_factory=Counter[str])  # connections that gave no answer


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Generator:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers = count(plan.first)
        self._chance = random.Random(plan.first)
        self._bag = [call for call in plan.calls for _ in range(call.weight)]
        self.seen = {call.name: Seen() for call in plan.calls}

    async def run(self) -> float:
        """Seconds from the first call to the last answer."""
        connector = aiohttp.TCPConnector(limit=self._plan.connections, force_close=False)
        timeout = aiohttp.ClientTimeout(total=ABORT_S)
        async with aiohttp.ClientSession(self._plan.address, connector=connector, timeout=timeout) as http:
            begun = time.perf_counter()
            if self._plan.rate is None:
                await asyncio.gather(*(self._busy(http, begun) for _ in range(self._plan.connections)))
            else:
                await self._on_time(http, begun, self._plan.rate)
            return time.perf_counter() - begun

    async def _busy(self, http: aiohttp.ClientSession, begun: float) -> None:
        while (now := time.perf_counter()) - begun < self._plan.seconds:
            await self._call(http, now)

    async def _on_time(self, http: aiohttp.ClientSession, begun: float, rate: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        for number in range(round(rate * self._plan.seconds)):
            due = begun + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._call(http, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _call(self, http: aiohttp.ClientSession, due: float) -> None:
        call = self._chance.choice(self._bag)
        number = next(self._numbers)
        one = self._chance.choice(self._plan.ids) if self._plan.ids else ""
        path = call.path.replace("{id}", one)
        headers = {"Authorization": f"Bearer {self._plan.keys[number % len(self._plan.keys)]}"}
        body = None
        if call.body:
            headers["Content-Type"] = call.content_type
            body = call.body.replace("{id}", one).replace("{n}", str(number)).encode()
        seen = self.seen[call.name]
        try:
            async with http.request(call.method, path, data=body, headers=headers) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.broken[type(error).__name__] += 1
            return
        took_s = time.perf_counter() - due
        seen.statuses[answer.status] += 1
        if answer.status < 400:
            seen.accepted_s.append(took_s)
            return
        seen.refused_s.append(took_s)
        if "retry-after" not in answer.headers:
            seen.without_retry_after += 1


def report(seen: dict[str, Seen], seconds: float) -> dict[str, object]:
    calls = {
        name: {
            "statuses": {str(status): number for status, number in one.statuses.items()},
            "per_s": len(one.accepted_s) / seconds,
            "p50_ms": 1000 * quantile(one.accepted_s, 0.5),
            "p99_ms": 1000 * quantile(one.accepted_s, 0.99),
            "refused_p99_ms": 1000 * quantile(one.refused_s, 0.99),
            "without_retry_after": one.without_retry_after,
            "broken": sum(one.broken.values()),
        }
        for name, one in seen.items()
    }
    together = [second for one in seen.values() for second in one.accepted_s]
    return {
        "seconds": seconds,
        "per_s": len(together) / seconds,
        "p50_ms": 1000 * quantile(together, 0.5),
        "p99_ms": 1000 * quantile(together, 0.99),
        "calls": calls,
    }


def encode(plan: Plan) -> bytes:
    return json.dumps(asdict(plan)).encode()


def main() -> None:
    raw = json.load(sys.stdin)
    plan = Plan(**{**raw, "calls": [Call(**call) for call in raw["calls"]]})
    generator = Generator(plan)
    seconds = asyncio.run(generator.run())
    print(json.dumps(report(generator.seen, seconds)))


if __name__ == "__main__":
    main()
