"""The service that the contract's suite runs against: `attune up` over the smallest base that trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.place import BASE
from tests.engine.tiny_base import make_base
from tests.live import Live, live_service


@contextmanager
def contract_service(folder: Path) -> Iterator[Live]:
    base = make_base(folder / "base")
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    base.rename(data / "models" / BASE)
    environment = {"ATTUNE_SNAPSHOT_INTERVAL_S": "1", "ATTUNE_BEAT_S": "0.5"}
    with live_service(data, data / "models" / BASE, environment) as live:
        live.wait_for_worker()
        yield live
