"""Settings that are wrong: every command that needs them says which, in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize("command", [["up"], ["doctor"], ["backup", "copy"], ["restore", "copy"]])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATTUNE_AUDIT_KEEP_DAYS", "soon", "audit_keep_days: Input should be a valid integer"),
        ("ATTUNE_HUB_TOKEN_FILE", "nowhere/token", "ATTUNE_HUB_TOKEN_FILE names nowhere/token, which cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(
    command: list[str], name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, command, env={name: value})
    assert ended.exit_code == 1
    assert said in " ".join(ended.output.split())
    assert "Traceback" not in ended.output
    assert list(tmp_path.iterdir()) == []
