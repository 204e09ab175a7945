"""Uploads in parts, with the client's own helper and by hand (C17)."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.contract.place import Project, examples


def begin(client: OpenAI, data: bytes, **more: Any) -> str:
    return client.uploads.create(
        filename="a.jsonl", purpose="fine-tune", bytes=len(data), mime_type="text/jsonl", **more
    ).id


def test_c17_a_file_goes_up_in_chunks(client: OpenAI, tmp_path: Path) -> None:
    data = examples(500)
    path = tmp_path / "chunked.jsonl"
    path.write_bytes(data)
    digest = hashlib.md5(data).hexdigest()
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=10_000, md5=digest
    )
    assert (done.status, done.filename, done.bytes) == ("completed", "chunked.jsonl", len(data))
    assert done.file is not None
    assert (done.file.status, done.file.bytes) == ("processed", len(data))
    assert client.files.content(done.file.id).read() == data


def test_c17_the_async_client_sends_chunks_too(project: Project) -> None:
    data = examples(100)

    async def send() -> bytes:
        async with project.async_client() as client:
            done = await client.uploads.upload_file_chunked(
                file=data, filename="b.jsonl", bytes=len(data), mime_type="text/jsonl", purpose="fine-tune",
                part_size=4000,
            )  # fmt: skip
            assert done.file is not None
            return (await client.files.content(done.file.id)).read()

    assert asyncio.run(send()) == data


def test_c17_order_md5_and_bytes_decide(client: OpenAI) -> None:
    data = examples(20)
    upload_id = begin(client, data)
    second = client.uploads.parts.create(upload_id, data=data[500:]).id
    first = client.uploads.parts.create(upload_id, data=data[:500]).id
    digest = hashlib.md5(data).hexdigest()
    for part_ids, md5 in (([first], digest), ([second, first], digest), ([first, second], "0" * 32)):
        with pytest.raises(openai.BadRequestError):
            client.uploads.complete(upload_id, part_ids=part_ids, md5=md5)
    done = client.uploads.complete(upload_id, part_ids=[first, second], md5=digest)
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data


def test_c17_an_upload_is_cancelled_and_says_when_it_expires(client: OpenAI) -> None:
    data = examples(20)
    upload_id = begin(client, data)
    part = client.uploads.parts.create(upload_id, data=data)
    assert (part.object, part.upload_id) == ("upload.part", upload_id)
    cancelled = client.uploads.cancel(upload_id)
    assert (cancelled.status, cancelled.file) == ("cancelled", None)
    assert cancelled.expires_at - cancelled.created_at == 3600
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.uploads.complete(upload_id, part_ids=[part.id])
    file = client.uploads.upload_file_chunked(
        file=data, filename="c.jsonl", bytes=len(data), mime_type="text/jsonl", purpose="fine-tune"
    ).file
    assert file is not None
    assert file.expires_at is None
    expiring = begin(client, data, extra_body={"expires_after": {"anchor": "created_at", "seconds": 3600}})
    only = client.uploads.parts.create(expiring, data=data).id
    file = client.uploads.complete(expiring, part_ids=[only]).file
    assert file is not None
    assert file.expires_at == file.created_at + 3600
