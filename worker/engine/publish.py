"""Files that survive a power cut: written whole, fsynced, renamed into place, and the folder fsynced after.

A folder under its final name is complete; anything half-written bears a name that starts with a dot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core import crash_points


def write_bytes(path: Path, data: bytes) -> None:
    """Write and fsync a file."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    crash_points.here("snapshot.file")


def sync_file(path: Path) -> None:
    """Make a file that another wrote durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill; at the end of the block it becomes `folder`, replacing what stood there."""
    if not folder.parent.exists():
        folder.parent.mkdir(parents=True)
        sync_folder(folder.parent.parent)
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    crash_points.here("snapshot.begun")
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # what found no room must not take it either
        raise
    crash_points.here("snapshot.manifest")
    sync_folder(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    crash_points.here("snapshot.renamed")
    sync_folder(folder.parent)
