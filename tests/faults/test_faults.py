"""The short form of `make faults`: a kind of harm from every part, once, over both deployments at once; and nothing
lost, doubled or wrong after any of it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.live import ROOT

QUICK = "F1,F2,F14,F15,F16,F18,F21,F24,F28,F30,F35"


@pytest.mark.timeout(900)
def test_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.faults", "--scale", "short", "--only", QUICK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["violations"] == found["lost"] == found["duplicated"] == 0, done.stdout
    assert found["scenarios"] == len(QUICK.split(","))
    assert found["landed"] >= found["scenarios"], done.stdout
    # a kill may by chance come too late, and a run in which most did proves nothing
    assert found["invalid"] <= 3, done.stdout
