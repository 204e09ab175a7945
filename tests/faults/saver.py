"""`python -m tests.faults.saver write|loop|verify …`: snapshots and stored objects made by the product's own code,
as fast as they can be, and what is left of them after a kill or a loss of power.

The writer says what it has made durable in a file outside the place that is harmed: one line for each, once the
product's function has returned.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from core.settings import Settings
from core.spec import Execution
from core.store.objects import Storage
from core.store.storage import open_storage
from worker.engine.snapshot import Identity, Progress, Snapshot, candidates, prune, save_snapshot

IDENTITY = Identity(task_sha256="task", data_sha256="data")
EXECUTION = Execution(precision="float32", micro_tokens=512, threads=1)
KEEP = 2
MOST = 3  # times the kills that are wanted, before too few have hit
LONGEST_S = 0.06  # from a writer's first save to its end


def _store(place: Path) -> Storage:
    return open_storage(Settings(data_dir=place))


def _tensors(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((64, 64), float(step))}


def _object(step: int) -> tuple[str, bytes]:
    content = hashlib.sha256(str(step).encode()).digest() * 2000
    return f"projects/p/jobs/j/{step}", content


def write(place: Path, acknowledged: int, first: int) -> None:
    """Until it is killed: a snapshot, then an object, each acknowledged on the descriptor once it is durable. A file
    that nobody synced is written beside them, as a proof that power was really lost."""
    store, step = _store(place), first
    (place / "snapshots").mkdir(exist_ok=True)
    while True:
        progress = Progress(step=step, trained_tokens=0, epoch_nll=0.0, epoch_supervised=0)
        tensors = _tensors(step)
        save_snapshot(
            place / "snapshots", attempt=1, progress=progress, identity=IDENTITY, execution=EXECUTION, device="cpu",
            processes=1, adapter=tensors, optimizer=tensors, random=tensors, best={},
        )  # fmt: skip
        os.write(acknowledged, f"s{step}\n".encode())
        prune(place / "snapshots", KEEP)
        key, content = _object(step)
        store.put_bytes(key, content)
        os.write(acknowledged, f"o{step}\n".encode())
        (place / f"unsynced-{step}").write_bytes(b"x" * 4096)
        step += 1


def verify(place: Path, acknowledged: list[str]) -> list[str]:
    """What is wrong with what is left."""
    wrong: list[str] = []
    snapshots = [int(text[1:]) for text in acknowledged if text.startswith("s")]
    found = next(candidates(place / "snapshots", IDENTITY, EXECUTION), None)
    if found is not None and not isinstance(found, Snapshot):
        wrong.append(f"bad: {found.folder.name}: {found.reason}")
    newest = found.manifest.progress.step if isinstance(found, Snapshot) else -1
    if snapshots and newest < snapshots[-1]:
        wrong.append(f"lost: snapshot {snapshots[-1]} was acknowledged, and the newest is {newest}")
    if isinstance(found, Snapshot) and not torch.equal(found.adapter["weight"], _tensors(newest)["weight"]):
        wrong.append(f"bad: snapshot {newest} holds other weights")
    store = _store(place)
    for text in acknowledged:
        key, content = _object(int(text[1:]))
        if text.startswith("o") and (not store.exists(key) or b"".join(store.open(key)) != content):
            wrong.append(f"lost: object {key}")
    for entry in store.list(""):  # also those that nobody was told of: whole, or not there
        if b"".join(store.open(entry.key)) != _object(int(entry.key.rsplit("/", 1)[1]))[1]:
            wrong.append(f"bad: object {entry.key}")
    return wrong


@dataclass
class Kills:
    kills: int = 0
    landed: int = 0  # in the middle of a save
    acknowledged: int = 0
    wrong: list[str] | None = None


def loop(place: Path, kills: int) -> Kills:
    """Fork a writer, kill it at a random moment, look; so many times, over what was left before, and on until half as
    many have hit a save. How often one does depends on the machine."""
    done, wrong, step = Kills(), list[str](), 0
    while done.kills < kills or (2 * done.landed < kills and done.kills < MOST * kills):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            write(place, writing, step)
        os.close(writing)
        first = os.read(reading, 64)  # it has begun
        time.sleep(random.random() * LONGEST_S)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(reading, "rb") as pipe:
            acknowledged = (first + pipe.read()).decode().split()
        middle = any((place / "snapshots").glob(".*.partial")) or any((place / "objects" / ".staging").iterdir())
        done.kills += 1
        done.landed += middle
        done.acknowledged += len(acknowledged)
        wrong += verify(place, acknowledged)
        step = int(acknowledged[-1][1:]) + 2
        shutil.rmtree(place / "objects")
        for plain in place.glob("unsynced-*"):
            plain.unlink()
    done.wrong = wrong
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("write", "loop", "verify"))
    parser.add_argument("place", type=Path)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--acknowledged", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.act == "write":
        write(options.place, os.open(options.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0)
    elif options.act == "loop":
        print(json.dumps(asdict(loop(options.place, options.kills))))
    else:
        print(json.dumps(verify(options.place, options.acknowledged.read_text().split())))


if __name__ == "__main__":
    main()
