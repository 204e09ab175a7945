"""A running service, and its command line as a user calls it."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from tests.live import Live


class Service:
    """A running `attune up`, and its command line in this process."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.data = live.data

    @property
    def output(self) -> str:
        """What `attune up` has printed."""
        return (self.data / "up.log").read_text()

    def attune(self, *arguments: str | Path, **environment: str) -> Result:
        place = {"ATTUNE_DATA_DIR": str(self.data), "ATTUNE_URL": self.live.address}
        return CliRunner().invoke(app, list(map(str, arguments)), env={**place, **environment})

    def said(self, *arguments: str | Path, **environment: str) -> str:
        """Standard output of a command that succeeds."""
        result = self.attune(*arguments, **environment)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def refused(self, *arguments: str | Path, **environment: str) -> str:
        """The last line of a command that does not."""
        result = self.attune(*arguments, **environment)
        assert result.exit_code == 1, result.output
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("error: "), result.output
        return line
