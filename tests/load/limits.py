"""The limit of requests a minute, counted by two web processes together, exact in every minute."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.access.rates import WINDOW_S
from tests.load.deployment import Deployment, generated
from tests.load.figures import Floor, Row
from tests.load.generator import Call, Plan

LIMIT = 120  # a minute
MORE = 1.5  # times the limit is asked for
ASK_S = 10.0
MARGIN_S = 5.0  # of a minute's ends, in which nothing is asked


def measure(place: Deployment, windows: int) -> Row:
    """`place` has two web processes."""
    _, key = place.tenant("limited", max_requests_per_minute=LIMIT)
    off, unclear = 0, 0
    for _ in range(windows):
        _until_the_next_window()
        found = ask(place, key, LIMIT * MORE)
        allowed, unclear = found.allowed, unclear + found.unclear
        off = max(off, abs(allowed - LIMIT))
    figures = [(Floor("rate_limit_off_by", 1, "requests"), off), (Floor("rate_limit_unclear", 0, ""), unclear)]
    return Row(
        f"{LIMIT} requests a minute, {len(place.webs)} web processes",
        figures,
        errors=unclear,
        note=f"{windows} windows, {MORE:g} times the limit asked for",
    )


@dataclass(frozen=True)
class Asked:
    allowed: int
    refused: int
    unclear: int  # another answer, none, or a refusal that does not say when to return


def ask(place: Deployment, key: str, times: float) -> Asked:
    """So many requests, evenly over time and over the web processes."""
    call = Call("models", "/v1/models")
    rate = times / ASK_S / len(place.webs)
    plans = [Plan(address, [key], [call], ASK_S, 4, rate) for address in place.webs]
    with ThreadPoolExecutor(len(plans)) as pool:
        seen = [report["calls"][call.name] for report in pool.map(generated, plans)]
    allowed = sum(one["statuses"].get("200", 0) for one in seen)
    refused = sum(one["statuses"].get("429", 0) for one in seen)
    others = sum(sum(one["statuses"].values()) + one["broken"] + one["without_retry_after"] for one in seen)
    return Asked(allowed, refused, others - allowed - refused)


def _until_the_next_window() -> None:
    """Windows are the clock's minutes."""
    into_s = time.time() % WINDOW_S
    time.sleep(WINDOW_S - into_s + MARGIN_S)
