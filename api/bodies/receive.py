"""A multipart form streamed into storage: a whole file, checked line by line on the way, or a part of an upload.

Memory is constant. What is refused, cut short or wrong leaves nothing behind: the store publishes an object only
when its stream ends well, and ours ends well only when the whole form has been read and found good.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from anyio import to_thread

from api.bodies.form import Form, Limits, check_name, check_purpose, lifetime
from core import ids
from core.data.examples import Checker, Summary
from core.errors import AttuneError
from core.files.files import FINE_TUNE, Received, storage_key
from core.store.objects import Stored
from core.store.storage import Storage
from core.store.streams import Behind

BLOCK_BYTES = 1024 * 1024  # one trip to a thread each


class _Intake:
    """Turns the request's body into the file's bytes, and holds what was found out about them."""

    def __init__(self, body: AsyncIterator[bytes], content_type: str | None, limits: Limits) -> None:
        self.form = Form(content_type, limits)
        self.summary: Summary | None = None
        self.failure: Exception | None = None
        self._body = body
        self._checker = Checker(limits.max_line_bytes)
        self._fault: AttuneError | None = None  # no JSONL; matters once the purpose is known to be fine-tune

    async def file_bytes(self) -> AsyncIterator[bytes]:
        try:
            async with Behind() as behind:
                async for block in self._blocks():
                    await behind.run(self._check, block)
                    yield block
            self.form.finish()
            await to_thread.run_sync(self._conclude)
        except Exception as error:
            self.failure = error  # a store may report its reader's failure as one of its own
            raise

    async def _blocks(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        async for data in self._body:
            self.form.feed(data)
            for piece in self.form.take():
                pieces.append(piece)
                size += len(piece)
            self._refuse_early()
            if size >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces.clear()
                size = 0
        if size:
            yield b"".join(pieces)

    def _check(self, block: bytes) -> None:
        if self._fault is None and self.form.fields.get("purpose", FINE_TUNE) == FINE_TUNE:
            try:
                self._checker.feed(block)
            except AttuneError as error:
                self._fault = error

    def _refuse_early(self) -> None:
        """As soon as the purpose and the fault are known: the rest need not be sent."""
        if self.form.fields.get("purpose") != FINE_TUNE:
            return
        if self.form.filename is not None:
            check_name(self.form.filename, FINE_TUNE, "file")
        if self._fault is not None:
            raise self._fault

    def _conclude(self) -> None:
        check_purpose(self.form.fields.get("purpose"))
        lifetime(self.form.fields)
        self._refuse_early()
        if self.form.fields["purpose"] == FINE_TUNE:
            self.summary = self._checker.finish()
        elif not self.form.file_bytes:
            raise AttuneError("The file is empty.", code="empty_file", param="file")


async def receive_upload(
    body: AsyncIterator[bytes], content_type: str | None, storage: Storage, project_id: str, limits: Limits
) -> Received:
    """Store the file of a form. Raises AttuneError; then the store holds nothing of it."""
    intake = _Intake(body, content_type, limits)
    file_id = ids.file_id()
    key = storage_key(project_id, file_id)
    try:
        stored = await storage.aput_stream(key, intake.file_bytes())
    except BaseException:
        if intake.failure is not None:
            raise intake.failure from None
        raise
    form = intake.form
    assert form.filename is not None
    return Received(
        id=file_id,
        filename=form.filename,
        purpose=form.fields["purpose"],
        storage_key=key,
        stored=stored,
        summary=intake.summary,
        lifetime_s=lifetime(form.fields),
    )


async def receive_part(
    body: AsyncIterator[bytes], content_type: str | None, storage: Storage, key: str, max_bytes: int
) -> Stored:
    """Store the `data` of a form under `key`. Raises AttuneError; then the store holds nothing of it."""
    form = Form(content_type, Limits(max_bytes, max_line_bytes=0), file_field="data", is_named=False)
    failure: Exception | None = None

    async def part_bytes() -> AsyncIterator[bytes]:
        nonlocal failure
        try:
            async for data in body:
                form.feed(data)
                for piece in form.take():
                    yield piece
            form.finish()
            if not form.file_bytes:
                raise AttuneError("The part is empty.", code="empty_part", param="data")
        except Exception as error:
            failure = error
            raise

    try:
        return await storage.aput_stream(key, part_bytes())
    except BaseException:
        if failure is not None:
            raise failure from None
        raise
