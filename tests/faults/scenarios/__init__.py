"""The 37 fault scenarios, by the numbers of the reference."""

from tests.faults.scenarios import broker, database, disk, engine, points, soak, store, web, webhooks, worker
from tests.faults.scenarios.listed import SCENARIOS, Listed, NotCovered, Outcome

__all__ = ["IN_ORDER", "SCENARIOS", "Listed", "NotCovered", "Outcome"]

MODULES = (worker, points, broker, database, web, store, disk, engine, webhooks, soak)
IN_ORDER = sorted(SCENARIOS, key=lambda number: int(number.removeprefix("F")))
