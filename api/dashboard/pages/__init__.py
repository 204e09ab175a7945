"""The pages, one module each. A module is loaded once, and NiceGUI then knows its page."""

from __future__ import annotations

import importlib

MODULES = (
    "compare",
    "compare_jobs",
    "convert",
    "data",
    "file",
    "job",
    "jobs",
    "keys",
    "model",
    "models",
    "new_job",
    "repair",
    "report",
    "settings",
    "split",
    "trained",
    "webhook",
    "webhooks",
    "workers",
)


def load() -> None:
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
