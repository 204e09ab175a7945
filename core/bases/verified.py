"""What was hashed already: a verdict for each file, good for as long as its size and time stay the same.

Weights are gigabytes, and every start of an engine asks for them; hashing them once is enough.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from core.bases.files import FileRecord, inside

_Seen = dict[str, tuple[int, int, str]]  # path -> (bytes, modified in ns, sha256)


class Verdicts:
    """The verdicts on the files of one folder, kept in `work_dir` (the folder may be read-only)."""

    def __init__(self, work_dir: Path, folder: Path) -> None:
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
        self._folder = folder
        self._path = work_dir / "verified" / f"{name}.json"
        self._seen: _Seen = {}

    def __enter__(self) -> Verdicts:
        try:
            self._seen = TypeAdapter(_Seen).validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            self._seen = {}  # never written, or not to its end: hash again
        return self

    def __exit__(self, *_: object) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._seen))

    def holds(self, file: FileRecord) -> bool:
        """Whether the file is there with the bytes that its record names."""
        path = inside(self._folder, file["path"])
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return False
        size, modified_ns = self._state(file)
        if self._seen.get(file["path"]) == (size, modified_ns, file["sha256"]):
            return True
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self._seen[file["path"]] = (size, modified_ns, digest)
        return digest == file["sha256"]

    def trust(self, file: FileRecord) -> None:
        """The file was verified while it was written."""
        self._seen[file["path"]] = (*self._state(file), file["sha256"])

    def _state(self, file: FileRecord) -> tuple[int, int]:
        status = (self._folder / file["path"]).stat()
        return status.st_size, status.st_mtime_ns
