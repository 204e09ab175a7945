"""Named places at which a fault run kills this very process; in every other run, passing one does nothing.

`ATTUNE_CRASH_AT=<name>:<n>:<file>` kills at the n-th passing (from 1), once: the file is made first, and a
process that finds it lives on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = (
    "upload.stored",  # the bytes are in storage, no row names them
    "upload.named",
    "create.written",  # the job's row, not committed yet
    "create.committed",  # and nobody has been told
    "answer.begun",  # a 2xx to a write is about to be sent
    "cancel.written",
    "cancel.committed",
    "prepare.claimed",
    "prepare.counted",
    "prepare.committed",
    "claim.written",
    "claim.committed",
    "beat.committed",
    "store.written",  # an object's bytes are in the store's staging, or about to be put
    "store.synced",
    "store.published",
    "snapshot.begun",  # in the engine: the folder is under a temporary name
    "snapshot.file",
    "snapshot.manifest",
    "snapshot.renamed",
    "snapshot.stored",  # in the runner: the archive is in storage, no row names it
    "snapshot.named",
    "checkpoint.stored",
    "checkpoint.named",
    "steps.written",
    "final.stored",
    "final.proved",
    "final.written",  # the final status, not committed yet
    "final.committed",
    "webhook.spread",
    "webhook.sent",  # the receiver has it, the row does not say so
    "webhook.settled",
)


class _Armed:
    """The one point at which this process dies."""

    def __init__(self, order: str) -> None:
        self.name, passings, flag = order.split(":", 2)
        assert self.name in POINTS, f"no such crash point: {self.name}"
        self._left = int(passings)
        self._flag = Path(flag)

    def pass_by(self) -> None:
        self._left -= 1
        if self._left > 0:
            return
        try:
            self._flag.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


# The environment and not a setting: the engine has no settings, and no operator sets this
_order = os.environ.get("ATTUNE_CRASH_AT", "")
_armed = _Armed(_order) if _order else None


def here(name: str) -> None:
    """Die here, if this is the place."""
    if _armed is not None and _armed.name == name:
        _armed.pass_by()
