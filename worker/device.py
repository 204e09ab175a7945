"""A process's hold on a GPU that it shares with others on the same machine; on a CPU every method says yes.

The lease itself is `core.devices`: this is one holder's side of it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from core import devices
from core.db import Database
from core.errors import Unavailable

TTL_S = 60.0


def gpus_seen(device: str) -> int:
    """How many GPUs a job of this worker may have, by what the driver shows; at least 1, which may be the CPU."""
    if device not in ("auto", "cuda"):
        return 1
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return max(1, len([name for name in given.split(",") if name]))
    driver = Path("/proc/driver/nvidia/gpus")  # of Linux's driver; a GPU found otherwise counts as one
    return max(1, len(list(driver.iterdir()) if driver.is_dir() else []))


class DeviceHold:
    """`take` asks once and leaves our name on the turn; `renew` at least every TTL_S / 2; `release` after the
    weights have left."""

    def __init__(self, database: Database, device: str, holder: str) -> None:
        self._database = database
        self._id = devices.device_id(socket.gethostname(), device)
        self._holder = holder
        self.held = self._id is None

    def take(self) -> bool:
        """True: the device is ours now."""
        if self._id is not None:
            with self._database.begin() as session:
                self.held = devices.acquire(session, self._id, self._holder, TTL_S)
        return self.held

    def renew(self) -> bool:
        """False: another has it, so leave the device at once. A database that is away is met by the next call."""
        if self._id is not None and self.held:
            try:
                with self._database.begin() as session:
                    self.held = devices.renew(session, self._id, self._holder, TTL_S)
            except Unavailable:
                return True
        return self.held

    def wanted(self) -> bool:
        """Does another wait for it?"""
        if self._id is None or not self.held:
            return False
        with self._database.read() as session:
            return devices.is_wanted(session, self._id, self._holder)

    def release(self) -> None:
        if self._id is not None and self.held:
            with self._database.begin() as session:
                devices.release(session, self._id, self._holder)
            self.held = False
