"""A worker that cannot start ends, so that whoever watches over it starts another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.live import ROOT
from tests.services import free_port


def test_a_worker_without_its_database_ends_instead_of_waiting_for_nothing(tmp_path: Path) -> None:
    own = {
        "ATTUNE_DATA_DIR": str(tmp_path),
        "ATTUNE_DATABASE_URL": f"postgresql+psycopg://attune@127.0.0.1:{free_port()}/attune",
        "ATTUNE_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "worker", "--pool", "threads"]
    ended = subprocess.run(
        command, env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert "worker_not_started" in said
    assert "the database cannot be reached" in said
    assert "Traceback" not in said
