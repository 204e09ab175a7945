"""The most memory that a run has taken of its device, to be held against its plan.

On a GPU it is what torch's allocator held, without the driver's own share (`runtime` in the plan), which no process
sees of itself. On a CPU it is how far the engine has grown beyond what it was before any base: the kernel's mark of
the most (VmHWM), which stays for a process's whole life and is set back where a run begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from worker.engine.parallel import World

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SET_MARK_BACK = "5"  # proc(5), clear_refs


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int | None:
    """VmRSS: now. VmHWM: at most since the mark was set back. None outside Linux."""
    if not _STATUS.exists():
        return None
    lines = _STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class PeakMemory:
    """Of one run, from the last `restart` on. What cannot be measured is None."""

    def __init__(self, device: torch.device, idle_bytes: int | None, world: World) -> None:
        """`idle_bytes`: resident in this process before it had any base."""
        self._device = device
        self._idle_bytes = idle_bytes
        self._world = world
        self.restart()

    def restart(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _CLEAR.write_text(_SET_MARK_BACK)
        except OSError:  # not every container's kernel lets it: then the mark may be an earlier job's
            self._idle_bytes = None

    def so_far(self) -> int | None:
        """None where several processes train: asking the others at every step would cost each of them."""
        return self._own() if self._world.size == 1 else None

    def at_the_end(self) -> int | None:
        """Of the process that took the most. All of them have to ask."""
        taken = [one for one in self._world.gather([self._own()]) if one is not None]
        return max(taken, default=None)

    def _own(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        highest = resident_bytes("VmHWM")
        return None if highest is None or self._idle_bytes is None else max(0, highest - self._idle_bytes)
