"""The service that the contract's suite runs against: `attune up` over the smallest base that trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.place import BASE
from tests.engine.tiny_base import make_base
from tests.live import Live, live_service
from worker.demo_base import CHAT_TEMPLATE  # knows tools


@contextmanager
def contract_service(folder: Path) -> Iterator[Live]:
    base = make_base(folder / "base", chat_template=CHAT_TEMPLATE)
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    base.rename(data / "models" / BASE)
    environment = {
        "ATTUNE_SNAPSHOT_INTERVAL_S": "1",
        "ATTUNE_BEAT_S": "0.5",
        "ATTUNE_WEBHOOK_ALLOW": "127.0.0.1",  # the suite's own receiver
        "WANDB_MODE": "offline",
    }
    with live_service(data, data / "models" / BASE, environment) as live:
        live.wait_for_worker()
        yield live
