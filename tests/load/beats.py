"""`python -m tests.load.beats`: workers by the hundred, as far as the database sees them: claims that are beaten.

On stdin JSON: database_url, claims, seconds, every_s, lease_s. Ends with how long beats took and how many were lost.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from core.db import open_database
from core.jobs import claims
from core.jobs.claims import Claim, WorkerFacts
from tests.load.deployment import LABEL
from tests.load.generator import quantile

THREADS = 8


def main() -> None:
    asked = json.load(sys.stdin)
    database = open_database(asked["database_url"])
    held: list[Claim] = []
    for number in range(asked["claims"]):
        worker = WorkerFacts(f"beating-{number}", 1 << 40, labels=(LABEL,))
        with database.begin() as session:
            claim = claims.claim_training(session, worker, asked["lease_s"])
        assert claim is not None, "fewer queued jobs than claims"
        held.append(claim)
    took_s: list[float] = []
    lost = 0
    begun = time.perf_counter()
    beats = round(asked["claims"] * asked["seconds"] / asked["every_s"])
    apart_s = asked["every_s"] / asked["claims"]

    def beat(first: int) -> None:
        nonlocal lost
        for number in range(first, beats, THREADS):
            due = begun + number * apart_s
            time.sleep(max(0.0, due - time.perf_counter()))
            with database.begin() as session:
                lost += held[number % len(held)].beat(session, asked["lease_s"]) is None
            took_s.append(time.perf_counter() - due)

    threads = [threading.Thread(target=beat, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    print(
        json.dumps(
            {
                "per_s": len(took_s) / seconds,
                "p50_ms": 1000 * quantile(took_s, 0.5),
                "p99_ms": 1000 * quantile(took_s, 0.99),
                "beats": len(took_s),
                "wanted": beats,
                "lost": lost,
            }
        )
    )
    database.close()


if __name__ == "__main__":
    main()
