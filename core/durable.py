"""Files that survive a power cut: written beside their place, synced, then named in one step.

A name is durable only when the folder that holds it is synced as well, and so is every folder made on the way;
the folder store and the model downloads both rest on this.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from core import crash_points

StrPath = str | os.PathLike[str]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, or a file is full


def sync_folder(folder: StrPath) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: StrPath) -> None:
    """Make `folder` and its missing parents, private to this user, and their names durable."""
    missing: list[str] = []
    path = os.path.abspath(folder)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        # not exist_ok: that raises when a deletion takes away, before it looks, the folder another writer has made
        with suppress(FileExistsError):
            os.mkdir(path, mode=0o700)
        sync_folder(os.path.dirname(path))


def replace_file(source: Path, target: Path) -> None:
    """Sync `source` and give it the name `target` (same file system), replacing what stood there."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)


class NewFile:
    """A file in the making, in `staging`; it is gone at the end of its `with` unless it was published.

    The staged name ends in `#` and digits, which obstore's folder store never lists. Names are plain strings: pathlib
    interns each part, and parts that come only once make the process's table of them grow.
    """

    def __init__(self, staging: StrPath) -> None:
        self._path = os.path.join(staging, f"new#{secrets.randbits(64)}")
        self._file = FileIO(self._path, "xb")
        os.fchmod(self._file.fileno(), 0o600)

    def write(self, block: bytes | memoryview) -> None:
        view = memoryview(block)
        while view:  # an unbuffered write may be short
            view = view[self._file.write(view) :]

    def publish(self, target: StrPath) -> None:
        """Name the file `target` durably; raises FileExistsError when that name is taken."""
        crash_points.here("store.written")
        os.fsync(self._file.fileno())
        crash_points.here("store.synced")
        folder = os.path.dirname(os.path.abspath(target))
        for tries_left in reversed(range(10)):
            try:
                make_folder(folder)
                os.link(self._path, target)  # unlike a rename, a link never replaces
                sync_folder(folder)
                return crash_points.here("store.published")
            except FileNotFoundError:  # a deletion removed the emptied folder in between
                if tries_left == 0 or not os.path.exists(self._path):
                    raise
        raise AssertionError("unreachable")

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)
