"""The short form of `make faults`: every kind of harm once, and nothing lost, doubled or wrong after any of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.live import ROOT

QUICK = {
    "embedded": "F1,F2,F5,F10,F18,F24,F30,F31,F34,F35",
    "services": "F1,F6,F11,F14,F15,F16,F18,F20,F22",
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", QUICK)
def test_nothing_is_lost(kind: str) -> None:
    command = [sys.executable, "-m", "tests.faults", "--scale", "short", "--kind", kind, "--only", QUICK[kind]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["violations"] == found["lost"] == found["duplicated"] == 0, done.stdout
    assert found["scenarios"] == len(QUICK[kind].split(","))
    assert found["landed"] >= found["scenarios"], done.stdout
    # a kill or a cancel may by chance come too late, and a run in which most did proves nothing
    assert found["invalid"] <= 2, done.stdout
