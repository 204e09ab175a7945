"""One `attune up` for the commands of a module; one of them ends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.cli.service import Service
from tests.engine.tiny_base import make_base
from tests.live import live_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("attune")
    base = make_base(folder / "base")
    with live_service(folder / "data", base) as live:
        shutil.copytree(base, live.data / "models/tiny")
        service = Service(live)
        service.said("models", "add", "tiny", "--folder")
        yield service
