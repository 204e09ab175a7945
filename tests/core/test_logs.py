"""Lines of the log, by a program that logs what it should not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from core import ids
from core.logs import HIDDEN
from core.webhooks import signatures

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import json, os, structlog
from core.logs import configure_logs
from core.settings import load_settings

configure_logs(load_settings())
log = structlog.get_logger()
for text in json.loads(os.environ["SAID"]):
    log.info("said", text=text, nested=[{"deep": text}])
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("failed")
"""


def test_a_line_holds_no_secret_wherever_it_came_from() -> None:
    key = ids.new_key()[1]
    settings = {
        "ATTUNE_DATABASE_URL": "postgresql://attune:pass-of-the-database@db/attune",
        "ATTUNE_HUB_TOKEN": 'hf_with"quote',
        "ATTUNE_S3_SECRET_ACCESS_KEY": "short",
    }
    ours = [key, "attune-session-" + "a" * 43, "attune-embed-key_1.proj_2.ftjob-3.1893456000." + "0" * 64]
    secrets = ["pass-of-the-database", 'hf_with"quote', *ours, signatures.new_secret()]
    plain = ["nothing to hide", "a short word", f"{key[:15]}…", "attune-embed-"]
    environment = {**os.environ, **settings, "SAID": json.dumps([f"<{one}>" for one in secrets + plain])}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert len(lines) == 2 * len(secrets + plain)
    for secret in secrets:
        assert secret not in ran.stderr
        assert json.dumps(secret)[1:-1] not in ran.stderr
    said = [line for line in lines if line["event"] == "said"]
    assert [line["text"] for line in said[len(secrets) :]] == [f"<{one}>" for one in plain]
    assert all(HIDDEN in line["text"] and HIDDEN in line["nested"][0]["deep"] for line in said[: len(secrets)])
    assert all(line["exception"].startswith("Traceback") for line in lines if line["event"] == "failed")
