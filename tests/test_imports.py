"""Who may import whom, seen in real interpreters: what a package loads is what its process will hold in memory.

The static contracts in pyproject.toml say the same of our own modules; this sees what third parties pull in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "bitsandbytes")

# Imports each module named on stdin in turn and reports the first that brings in something forbidden.
_LOOK = """
import importlib, json, sys
order = json.load(sys.stdin)
for module in order["modules"]:
    importlib.import_module(module)
    loaded = [name for name in order["forbidden"] if name in sys.modules]
    if loaded:
        print(f"{module} loads {', '.join(loaded)}")
        break
"""

REST_OF_API = tuple(
    f"api.{path.stem}" for path in (ROOT / "api").iterdir() if path.stem not in ("__init__", "__pycache__", "dashboard")
)


@dataclass(frozen=True)
class Rule:
    """`patterns` name source files below the root; their modules may load nothing of `forbidden`."""

    name: str
    patterns: tuple[str, ...]
    forbidden: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def modules(self) -> list[str]:
        files = {path for pattern in self.patterns for path in ROOT.glob(pattern)}
        names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
        return sorted(name.removesuffix(".__init__") for name in names if name not in self.without)


RULES = (
    Rule("core", ("core/**/*.py",), (*HEAVY, "fastapi", "starlette", "nicegui", "api", "worker", "cli")),
    Rule("api", ("api/**/*.py",), (*HEAVY, "worker", "cli")),
    Rule("dashboard", ("api/dashboard/**/*.py",), (*HEAVY, "core", "worker", "cli", "sqlalchemy", *REST_OF_API)),
    # the process that claims jobs; the demo's programs beside it are started by themselves
    Rule(
        "runner",
        ("worker/*.py",),
        (*HEAVY, "worker.engine", "api", "cli"),
        without=("worker.demo_base", "worker.demo_peft"),
    ),
    Rule(
        "engine",
        ("worker/engine/**/*.py",),
        ("celery", "sqlalchemy", "redis", "obstore", "core.db", "core.jobs", "core.store", "core.broker"),
    ),
    Rule("server", ("worker/serve/**/*.py",), ("celery", "api", "cli")),
    Rule("cli", ("cli/**/*.py",), (*HEAVY, "api", "worker")),
)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.modules], ids=lambda rule: rule.name)
def test_loads_nothing_forbidden(rule: Rule, tmp_path: Path) -> None:
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK],
        input=json.dumps({"modules": rule.modules, "forbidden": rule.forbidden}),
        env={**os.environ, "ATTUNE_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout == ""
