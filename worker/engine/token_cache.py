"""Tokenised files on disk by what they are made of, so that an attempt that goes on, or the next job on the same
file, does not render it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from core.rendering.render import Renderer
from core.spec import Resolved
from worker.engine.data import Dataset

KEPT = 32  # newest files
PARTIAL = ".partial"  # of a folder that is being written
# What has no say in the tokens; whatever else a run is made with, counts
NO_SAY = {
    *("n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate", "lora", "quantization", "beta"),
    *("warmup_steps", "total_steps", "max_grad_norm", "weight_decay"),
    *("validation_every_steps", "checkpoint_every_steps"),
}


class TokenCache:
    """Below `root`; without a root nothing is kept."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def get(self, path: Path, renderer: Renderer, resolved: Resolved, tokenise: Callable[[], Dataset]) -> Dataset:
        """The examples of `path`, read or made by `tokenise`. A fault is never kept: it is found anew each time."""
        if self._root is None:
            return tokenise()
        place = self._root / _key(path, renderer, resolved)
        try:
            data = _mapped(place)
            os.utime(place)
        except (OSError, ValueError, EOFError):  # absent, or cut short by a full disk
            data = tokenise()
            self._keep(data, place)
        return data

    def _keep(self, data: Dataset, place: Path) -> None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent, suffix=PARTIAL, ignore_cleanup_errors=True) as folder:
                for field in fields(Dataset):
                    np.save(_file(Path(folder), field.name), getattr(data, field.name))
                shutil.rmtree(place, ignore_errors=True)
                os.rename(folder, place)
            kept = [entry for entry in place.parent.iterdir() if entry.suffix != PARTIAL]
            kept.sort(key=lambda entry: entry.stat().st_mtime_ns)
            for old in kept[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            print(f"the tokens are not kept: {error}", file=sys.stderr)


def _file(place: Path, name: str) -> Path:
    return place / f"{name}.npy"


def _mapped(place: Path) -> Dataset:
    """Raises OSError, ValueError or EOFError where it is not whole."""
    columns = {field.name: np.asarray(np.load(_file(place, field.name), mmap_mode="c")) for field in fields(Dataset)}
    return Dataset(**columns)


def _key(path: Path, renderer: Renderer, resolved: Resolved) -> str:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    choices = resolved.model_dump(mode="json", exclude=NO_SAY)
    made_of = [content, renderer.template.hash, choices, version("attune"), version("tokenizers"), version("jinja2")]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
