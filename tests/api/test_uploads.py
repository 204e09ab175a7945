"""Uploads in parts: created, filled, completed to a File, cancelled, expired; and what each refuses."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from openai.types import Upload
from sqlalchemy import update

from core.db import db_now
from core.files.models import Upload as UploadRow
from core.upkeep import cleaning
from tests.api.place import Tenant, examples


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return OpenAI(
        api_key=tenant.key, base_url=f"{tenant.place.url}/v1", max_retries=0, _strict_response_validation=True
    )


def begin(client: OpenAI, data: bytes, purpose: str = "fine-tune", name: str = "train.jsonl") -> Upload:
    return client.uploads.create(
        filename=name,
        purpose=purpose,  # pyright: ignore[reportArgumentType]
        bytes=len(data),
        mime_type="text/jsonl",
    )


def objects(tenant: Tenant) -> list[str]:
    return [entry.key for entry in tenant.place.storage.list(f"projects/{tenant.project_id}")]


def test_c17_a_file_goes_up_in_chunks(client: OpenAI, tenant: Tenant, tmp_path: Path) -> None:
    data = examples(900)
    path = tmp_path / "my train.jsonl"
    path.write_bytes(data)
    digest = hashlib.md5(data).hexdigest()
    from_path = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=20_000, md5=digest
    )
    from_bytes = client.uploads.upload_file_chunked(
        file=data, filename="b.jsonl", bytes=len(data), mime_type="text/jsonl", purpose="fine-tune"
    )
    for upload in (from_path, from_bytes):
        assert upload.status == "completed"
        assert upload.file is not None
        assert (upload.file.bytes, upload.file.status, upload.file.purpose) == (len(data), "processed", "fine-tune")
        assert client.files.content(upload.file.id).read() == data
        shown = tenant.http.get(f"/v1/files/{upload.file.id}").json()
        assert (shown["attune"]["examples"], shown["attune"]["findings"]) == (900, [])
    assert from_path.filename == "my train.jsonl"
    assert from_path.expires_at - from_path.created_at == 3600
    cleaning.remove_uploads(tenant.place.database, tenant.place.storage)
    assert len(objects(tenant)) == 2  # the files; the parts are gone


def test_c17_order_bytes_and_md5_decide(client: OpenAI, tenant: Tenant) -> None:
    data = examples(40)
    upload = begin(client, data)
    second = client.uploads.parts.create(upload.id, data=data[1000:]).id
    first = client.uploads.parts.create(upload.id, data=data[:1000]).id
    again = client.uploads.parts.create(upload.id, data=data[:1000]).id
    other = begin(client, data)
    foreign = client.uploads.parts.create(other.id, data=data).id
    digest = hashlib.md5(data).hexdigest()
    for part_ids, md5, code in (
        ([first], digest, "upload_bytes_mismatch"),
        ([first, again, second], digest, "upload_bytes_mismatch"),
        ([first, first, second], digest, "part_repeated"),
        ([first, foreign], digest, "part_not_found"),
        ([second, first], "0" * 32, "md5_mismatch"),
        ([first, second], "0" * 32, "md5_mismatch"),
        ([first, second], "no md5", "invalid_value"),
        ([second, first], openai.omit, "invalid_file_format"),  # lines torn apart
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.uploads.complete(upload.id, part_ids=part_ids, md5=md5)
        assert (refused.value.code or "") == code or (code == "md5_mismatch" and refused.value.param == "file")
    assert not [key for key in objects(tenant) if "/files/" in key]
    done = client.uploads.complete(upload.id, part_ids=[again, second], md5=digest.upper())
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    repeated = client.uploads.complete(upload.id, part_ids=[again, second])
    assert repeated.file is not None
    assert repeated.file.id == done.file.id
    for call in (
        lambda: client.uploads.cancel(upload.id),
        lambda: client.uploads.parts.create(upload.id, data=b"more"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.code == "upload_completed"


def test_c17_cancel_ends_an_upload(client: OpenAI, tenant: Tenant) -> None:
    upload = begin(client, b"words", "user_data", "a.txt")
    part = client.uploads.parts.create(upload.id, data=b"words").id
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert client.uploads.cancel(upload.id).status == "cancelled"
    for call in (
        lambda: client.uploads.parts.create(upload.id, data=b"words"),
        lambda: client.uploads.complete(upload.id, part_ids=[part]),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.code == "upload_cancelled"
    cleaning.remove_uploads(tenant.place.database, tenant.place.storage)
    assert objects(tenant) == []


def test_c17_an_upload_expires(client: OpenAI, tenant: Tenant) -> None:
    upload = begin(client, b"words", "user_data", "a.txt")
    part = client.uploads.parts.create(upload.id, data=b"words").id
    database = tenant.place.database
    with database.begin() as session:
        session.execute(update(UploadRow).where(UploadRow.id == upload.id).values(expires_at=db_now() - 1))
    for sweep in (False, True):  # before the janitor's round and after it
        if sweep:
            cleaning.remove_uploads(database, tenant.place.storage)
        for call in (
            lambda: client.uploads.cancel(upload.id),
            lambda: client.uploads.parts.create(upload.id, data=b"words"),
            lambda: client.uploads.complete(upload.id, part_ids=[part]),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                call()
            assert refused.value.code == "upload_expired"
    assert objects(tenant) == []


def test_c17_what_is_declared_is_checked(client: OpenAI, tenant: Tenant) -> None:
    http = tenant.http
    sound = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/jsonl"}
    for change, param in (
        ({"bytes": 0}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"purpose": "nonsense"}, "purpose"),
        ({"filename": "a.csv"}, "filename"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ):
        answer = http.post("/v1/uploads", json={**sound, **change})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert http.post("/v1/uploads", json={**sound, "bytes": 8 * 1024**3}).status_code == 200
    upload = begin(client, b"12345")
    path = f"/v1/uploads/{upload.id}/parts"
    assert http.post(path, files={"data": b""}).json()["error"]["code"] == "empty_part"
    assert http.post(path, files={"file": b"x"}).json()["error"]["param"] == "data"
    assert http.post(path, files={"data": (None, b"12345")}).status_code == 200  # a plain field does, too
    with pytest.raises(openai.NotFoundError, match="No such Upload object: upload_x"):
        client.uploads.parts.create("upload_x", data=b"x")
    stranger = tenant.place.tenant()
    for call in (
        lambda: stranger.openai.uploads.cancel(upload.id),
        lambda: stranger.openai.uploads.parts.create(upload.id, data=b"x"),
        lambda: stranger.openai.uploads.complete(upload.id, part_ids=["part_x"]),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


def test_c17_a_completed_file_is_checked_and_expires_as_asked(client: OpenAI, tenant: Tenant) -> None:
    faulty = examples(2) + b'{"prompt":"a"}\n'
    upload = client.uploads.create(
        filename="a.jsonl",
        purpose="fine-tune",
        bytes=len(faulty),
        mime_type="text/jsonl",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    part = client.uploads.parts.create(upload.id, data=faulty).id
    file = client.uploads.complete(upload.id, part_ids=[part]).file
    assert file is not None
    assert file.status == "error"
    assert "line 3" in (file.status_details or "")
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 3600) <= 1


def test_c17_two_completions_at_once_make_one_file(client: OpenAI, tenant: Tenant) -> None:
    data = examples(3000)
    upload = begin(client, data)
    part = client.uploads.parts.create(upload.id, data=data).id
    found: list[Upload] = []

    def complete() -> None:
        found.append(client.uploads.complete(upload.id, part_ids=[part]))

    threads = [threading.Thread(target=complete) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({upload.file.id for upload in found if upload.file}) == 1
    assert len(found) == 3
    assert len([key for key in objects(tenant) if "/files/" in key]) == 1


def test_c28_byte_order_mark_crlf_and_blank_end_are_fine(client: OpenAI, tenant: Tenant) -> None:
    data = b"\xef\xbb\xbf" + examples(12).replace(b"\n", b"\r\n") + b"\r\n\n"
    sent = client.files.create(file=("a.jsonl", data), purpose="fine-tune").id
    upload = begin(client, data)
    cuts = [data[:2], data[2:700], data[700:]]  # one of them within the mark
    parts = [client.uploads.parts.create(upload.id, data=piece).id for piece in cuts]
    composed = client.uploads.complete(upload.id, part_ids=parts).file
    assert composed is not None
    for file_id in (sent, composed.id):
        shown = tenant.http.get(f"/v1/files/{file_id}").json()
        assert (shown["status"], shown["attune"]["examples"]) == ("processed", 12)
