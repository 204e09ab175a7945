"""The garbage collector of a process that stays, and what it is spared."""

from __future__ import annotations

import gc


def spare() -> None:
    """What is there now stays, so the collector need not look through it again.

    Modules and their classes are most of what a process holds. They count as young until they have been looked
    through a few times, and all of it at once stops a process for up to a fifth of a second.
    """
    gc.collect()
    gc.freeze()
