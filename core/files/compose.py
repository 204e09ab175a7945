"""The parts of an upload streamed into one object: hashed, measured and checked on the way, in constant memory.

Nothing is published unless all of it is good: the stream ends well only when bytes, md5 and lines agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from core import ids
from core.data.examples import Checker, Summary
from core.errors import AttuneError
from core.files.files import FINE_TUNE, Received, storage_key
from core.files.models import Upload, UploadPart
from core.files.uploads import part_key
from core.store.storage import Storage


class _Stream:
    def __init__(self, storage: Storage, upload: Upload, parts: Sequence[UploadPart], md5: str | None) -> None:
        self.summary: Summary | None = None
        self._storage = storage
        self._upload = upload
        self._parts = parts
        self._md5 = md5

    def blocks(self, checker: Checker | None) -> Iterator[bytes]:
        digest = hashlib.md5(usedforsecurity=False) if self._md5 is not None else None
        for part in self._parts:
            for block in self._storage.open(part_key(self._upload, part.id), sha256=part.sha256):
                if checker is not None:
                    checker.feed(block)
                if digest is not None:
                    digest.update(block)
                yield block
        if digest is not None and digest.hexdigest() != self._md5:
            raise AttuneError(
                f"The parts in this order have the md5 {digest.hexdigest()}, not {self._md5}. Check the order of "
                "part_ids, or send the parts again.",
                code="md5_mismatch",
                param="md5",
            )
        if checker is not None:
            self.summary = checker.finish()


def compose(
    storage: Storage, upload: Upload, parts: Sequence[UploadPart], *, md5: str | None, max_line_bytes: int
) -> Received:
    """Store the upload's file. Raises AttuneError, StorageMissing when a part is gone; then nothing is stored."""
    file_id = ids.file_id()
    key = storage_key(upload.project_id, file_id)
    stream = _Stream(storage, upload, parts, md5.lower() if md5 else None)
    checker = Checker(max_line_bytes) if upload.purpose == FINE_TUNE else None
    stored = storage.put_stream(key, stream.blocks(checker))
    return Received(
        id=file_id,
        filename=upload.filename,
        purpose=upload.purpose,
        storage_key=key,
        stored=stored,
        summary=stream.summary,
        lifetime_s=upload.file_lifetime_s,
    )
