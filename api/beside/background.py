"""What runs beside the requests in a web process: the preparation child, the janitor, the relay of webhooks."""

from __future__ import annotations

import threading

from api.beside.janitor import Janitor
from api.beside.preparation import Preparation
from api.beside.webhook_relay import Relay
from api.beside.webhook_sender import Sender
from core.broker.doorbell import Doorbell
from core.db import Database
from core.settings import Settings
from core.store.storage import Storage


class Background:
    """Started and stopped with the app. `poke` after a job was created, `poke_workers` after one was queued."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, sender: Sender) -> None:
        self._doorbell = Doorbell(settings, database)
        self._preparation = Preparation()
        self._janitor = Janitor(settings, database, storage, self._doorbell)
        self._relay = Relay(database, sender)

    def start(self) -> None:
        self._preparation.start()
        self._janitor.start()
        self._relay.start()

    def stop(self) -> None:
        self._relay.stop()
        self._janitor.stop()
        self._preparation.stop()

    def poke(self) -> None:
        self._preparation.poke()

    def poke_workers(self) -> None:
        # in a thread: a broker that is away must not hold up the answer
        threading.Thread(target=self._doorbell.ring_idle, name="ring", daemon=True).start()

    def poke_webhooks(self) -> None:
        self._relay.poke()


def create_background(settings: Settings, database: Database, storage: Storage, sender: Sender) -> Background:
    return Background(settings, database, storage, sender)
