"""The pages, one module each. A module is loaded once, and NiceGUI then knows its page."""

from __future__ import annotations

import importlib

MODULES = ("job", "jobs", "new_job")


def load() -> None:
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
