"""`attune backup` and `attune restore`: a copy of the data folder that is whole, taken while the service runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import fail, screen
from cli.settings import settings_here
from cli.show import count, when

DataFolder = Annotated[Path | None, typer.Option(help="Data folder. Default: ATTUNE_DATA_DIR, or data")]


def backup(
    target: Annotated[
        Path | None, typer.Argument(help="A folder that does not exist yet. Default: attune-backup-<time>")
    ] = None,
    data: DataFolder = None,
) -> None:
    """Copy database, objects, folders of base models and the operator key to a new folder; keep it as safe as the key.

    For a service in one data folder, running or stopped. Postgres and S3: see docs/operations.md.
    """
    from core.errors import AttuneError
    from core.upkeep import backup as copies  # here, since a client has no need of the database

    target = target or Path(f"attune-backup-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        manifest = copies.make(settings_here(data_dir=data), target)
    except AttuneError as error:
        fail(error.message)
    _tell(f"{target}: ", manifest)


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `attune backup` made.")],
    data: DataFolder = None,
) -> None:
    """Put a backup into an empty data folder. `attune up` there migrates it and goes on with what was running."""
    from core.errors import AttuneError
    from core.upkeep import backup as copies

    settings = settings_here(data_dir=data)
    try:
        manifest = copies.restore(settings, source)
    except AttuneError as error:
        fail(error.message)
    _tell(f"{settings.data_dir}: restored ", manifest)


def _tell(what: str, manifest: object) -> None:
    from core.upkeep.backup import Manifest

    assert isinstance(manifest, Manifest)
    size = sum(file.bytes for file in manifest.files)
    screen.print(f"{what}{len(manifest.files)} files, {count(size)} bytes, as of {when(manifest.made_at)}")
