"""Quantised copies of bases on disk, so that a base is quantised once and not at every cold start.

A copy's name is a hash of what it was made from and how: files, method, precision, kind of device and libraries.
A copy under that name is whole; a base whose files changed has another name, and its old copies go.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

from transformers import PreTrainedModel

LIBRARIES = ("bitsandbytes", "torch", "transformers")


class QuantisedCopies:
    """Those below `root`; without a root there are none."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def place(self, folder: Path, how: list[str]) -> Path | None:
        """Where the copy of the base in `folder` stands, or will. `how`: all else that determines its bytes."""
        if self._root is None:
            return None
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
        versions = [importlib.metadata.version(name) for name in LIBRARIES]
        made_of = json.dumps([str(folder), files, how, versions])
        base = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        return self._root / base / f"{'-'.join(how)}-{hashlib.sha256(made_of.encode()).hexdigest()[:32]}"

    def keep(self, model: PreTrainedModel, place: Path) -> None:
        """Write the copy. A full disk costs the copy and not the job."""
        temporary: Path | None = None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
            model.save_pretrained(temporary)
            prefix = place.name.rsplit("-", 1)[0]
            for old in place.parent.glob(f"{prefix}-*"):
                shutil.rmtree(old, ignore_errors=True)
            temporary.rename(place)
        except OSError as error:
            print(f"no quantised copy is kept: {error}", file=sys.stderr)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
