"""The store in a folder: synced, tidied, private, and honest about damage."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.durable import NewFile
from core.settings import Settings
from core.store.storage import StorageCorrupt, open_storage
from tests.core.stored import MIB, blocks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_folder_object_and_its_name_are_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    storage.put_bytes("a/b/c", b"data")

    # the file under its staged name, each new folder's name, and at last the object's own name
    assert [Path(path).name.split("#")[0] for path in synced] == ["new", "store", "a", "b"]
    assert (folder / "a/b/c").stat().st_mode & 0o077 == 0
    assert list((folder / ".staging").iterdir()) == []


def test_leftovers_of_dead_writers_are_removed_when_old(folder: Path) -> None:
    open_storage(Settings(storage_url=folder.as_uri()))
    old, young = folder / ".staging/new#1", folder / ".staging/new#2"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))

    storage = open_storage(Settings(storage_url=folder.as_uri()))

    assert not old.exists()
    assert young.exists()
    assert list(storage.list("")) == []


def test_corrupt_folder_objects_are_seen(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))
    written = storage.put_stream("k", blocks(3))
    with (folder / "k").open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"flipped")

    with pytest.raises(StorageCorrupt):
        storage.fetch("k", tmp_path / "out", written.sha256)
    assert not list(tmp_path.glob("out*"))
    read: list[bytes] = []
    with pytest.raises(StorageCorrupt):
        read.extend(storage.open("k", sha256=written.sha256))
    assert sum(map(len, read)) < written.bytes


def test_writers_survive_deletions_of_their_folder(folder: Path) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))

    def write(number: int) -> None:
        storage.put_bytes(f"a/b/{number}", b"x")
        storage.delete(f"a/b/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(200)))


def test_a_name_without_a_folder_is_published_where_the_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with NewFile(Path()) as new:
        new.write(b"secret")
        new.publish(Path("serve-token"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("serve-token", b"secret")]
