"""`attune up` refuses, before anything is started, what could not work."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.up import LOCK_NAME, web_address
from tests.services import free_port


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """`attune up` sets its own, for the process that it usually has to itself."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def refused(*arguments: str | Path, **environment: str) -> str:
    """The one line that `attune up` ends with."""
    ended = CliRunner().invoke(app, ["up", *map(str, arguments)], env=environment)
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refused("--data", tmp_path / "new", "--port", str(port))
        line = refused("--data", tmp_path / "new", "--port", str(free_port()), "--serve-port", str(port))
        assert f"port {port} of 127.0.0.1 is in use" in line
        assert "--serve-port" in line
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK_NAME], "nothing was started"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (tmp_path / LOCK_NAME).open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"another `attune up` (process 4711) is using {tmp_path}" in refused("--data", tmp_path)


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "as data folder" in refused("--data", tmp_path / "file")


def test_a_wrong_setting_is_named() -> None:
    assert "lease_s" in refused(ATTUNE_LEASE_S="soon")


def test_the_printed_address_is_one_that_can_be_reached() -> None:
    assert web_address("0.0.0.0", 8000) == "http://127.0.0.1:8000"
    assert web_address("::", 8000) == "http://[::1]:8000"
    assert web_address("attune.lan", 80) == "http://attune.lan:80"
