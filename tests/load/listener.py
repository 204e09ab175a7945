"""`python -m tests.load.listener`: so many connections to streams of events, and when each event came.

On stdin a line of JSON: address, key, jobs, count. Says "ready" once all are connected; ends when stdin does, with
what came. An event tells in its data when it was written (`at`, by this machine's clock).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from tests.load.generator import quantile

LINE = 1 << 20  # bytes of the longest


class Ear:
    """One connection."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.seqs: list[int] = []
        self.delays_s: list[float] = []
        self.status = 0

    async def listen(self, asked: dict[str, Any], connected: asyncio.Semaphore) -> None:
        host, port = asked["address"].removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=LINE)
        head = f"GET /v1/attune/fine_tuning/jobs/{self.job_id}/stream HTTP/1.1\r\nHost: {host}\r\n"
        writer.write(f"{head}Authorization: Bearer {asked['key']}\r\n\r\n".encode())
        self.status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        connected.release()
        while line := await reader.readline():
            if line.startswith(b"id: "):
                self.seqs.append(int(line[4:]))
            elif line.startswith(b"data: "):
                came = time.time()
                at = (json.loads(line[6:])["data"] or {}).get("at")
                if at is not None:
                    self.delays_s.append(came - at)


async def _listen(asked: dict[str, Any]) -> None:
    ears = [Ear(asked["jobs"][number % len(asked["jobs"])]) for number in range(asked["count"])]
    connected = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(ear.listen(asked, connected)) for ear in ears]
    for _ in ears:
        await connected.acquire()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    broken = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    delays = [delay for ear in ears for delay in ear.delays_s]
    heard: dict[str, Counter[int]] = {}
    for ear in ears:
        heard.setdefault(ear.job_id, Counter()).update(ear.seqs)
    figures = {
        "statuses": Counter(ear.status for ear in ears),
        "events": len(delays),
        "p50_ms": 1000 * quantile(delays, 0.5),
        "p99_ms": 1000 * quantile(delays, 0.99),
        "max_ms": 1000 * max(delays, default=0.0),
        "broken": broken,
        "out_of_order": sum(ear.seqs != sorted(set(ear.seqs)) for ear in ears),
        "heard": {job: dict(counts) for job, counts in heard.items()},
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(_listen(json.loads(sys.stdin.readline())))
