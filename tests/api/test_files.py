"""Files: up, listed, checked line by line, down again, gone."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from tests.api.place import Tenant, examples


def test_c15_a_file_goes_up_and_comes_back(tenant: Tenant) -> None:
    data = examples(12)
    file = tenant.openai.files.create(file=("../../my traîning.jsonl", data), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename) == ("file", len(data), "my traîning.jsonl")
    assert (file.status, file.purpose, file.expires_at) == ("processed", "fine-tune", None)
    assert abs(file.created_at - time.time()) < 60
    assert tenant.openai.files.wait_for_processing(file.id).id == file.id
    assert tenant.openai.files.content(file.id).read() == data
    shown = tenant.http.get(f"/v1/files/{file.id}").json()
    assert shown["attune"]["examples"] == 12
    assert shown["attune"]["findings"] == []


def test_content_is_an_attachment_and_takes_ranges(tenant: Tenant) -> None:
    data = examples(12)
    path = f"/v1/files/{tenant.upload(data, 'a.jsonl')}/content"
    whole = tenant.http.get(path)
    assert whole.headers["content-disposition"].startswith('attachment; filename="a.jsonl"')
    assert whole.headers["x-content-type-options"] == "nosniff"
    for asked, expected in (
        ("bytes=3-9", data[3:10]),
        ("bytes=100-", data[100:]),
        ("bytes=-7", data[-7:]),
        (f"bytes=5-{10**9}", data[5:]),
    ):
        part = tenant.http.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["content-range"].endswith(f"/{len(data)}")
    beyond = tenant.http.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert tenant.http.get(path, headers={"Range": "lines=1-2"}).status_code == 200
    assert tenant.http.get(path, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).content == data
    assert tenant.http.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


def test_c15_faulty_lines_become_findings(tenant: Tenant) -> None:
    faulty = examples(3) + b'{"messages":[{"role":"user","content":"x"}]}\n{"prompt":"a"}\n'
    file = tenant.openai.files.create(file=("a.jsonl", faulty), purpose="fine-tune")
    assert file.status == "error"
    assert file.status_details is not None
    assert "line 4" in file.status_details
    findings = tenant.http.get(f"/v1/files/{file.id}").json()["attune"]["findings"]
    assert [finding["line"] for finding in findings] == [4, 5]


_NO_JSONL = [
    ("a.jsonl", examples(2) + b"no json\n", "Line 3 is not a dictionary"),
    ("a.jsonl", b"[1, 2]\n", "Line 1 is not a dictionary"),
    ("a.jsonl", b"PK\x03\x04" + bytes(100), "zip"),
    ("a.jsonl", b"", "empty"),
    ("a.jsonl", b'{"text":"' + b"x" * (1024 * 1024) + b'"}\n', "longer than 1048576 bytes"),
    ("a.csv", b"a,b\n1,2\n", "extension .csv"),
]


def test_what_is_no_jsonl_is_refused_whole(tenant: Tenant) -> None:
    for name, data, words in _NO_JSONL:
        with pytest.raises(openai.BadRequestError) as refused:
            tenant.openai.files.create(file=(name, data), purpose="fine-tune")
        assert words.lower() in str(refused.value).lower()
        assert (refused.value.code, refused.value.param) == ("invalid_file_format", "file")
    assert tenant.left() == (0, 0)


def test_the_purpose_may_come_after_the_file(tenant: Tenant) -> None:
    def send(data: bytes, purpose: str, name: str = "a.jsonl") -> httpx.Response:
        head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        tail = f'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--x--\r\n'.encode()
        return tenant.http.post(
            "/v1/files", content=head + data + tail, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )

    assert send(examples(3), "fine-tune").json()["attune"]["examples"] == 3
    assert send(b"no jsonl at all", "fine-tune").json()["error"]["code"] == "invalid_file_format"
    assert send(b"no jsonl at all", "user_data", "a.txt").json()["status"] == "processed"
    assert send(b"no jsonl at all", "nonsense").json()["error"]["param"] == "purpose"
    assert tenant.left() == (2, 2)


def test_lists_go_page_by_page_in_both_orders(tenant: Tenant) -> None:
    made = [tenant.upload() for _ in range(5)]
    made.append(tenant.openai.files.create(file=("a.txt", b"words"), purpose="user_data").id)
    client = tenant.openai
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(limit=4, order="asc")] == made
    assert [file.id for file in client.files.list(purpose="user_data")] == made[-1:]
    page = tenant.http.get("/v1/files", params={"limit": 2, "after": made[2]}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[1], made[0], False)
    client.files.delete(made[3])  # a cursor that was deleted still marks its place
    assert [file.id for file in client.files.list(after=made[3])] == made[2::-1]


def test_c16_an_expiry_is_kept_and_bounded(tenant: Tenant) -> None:
    file = tenant.openai.files.create(
        file=("a.jsonl", examples(1)), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 3600) <= 1
    with pytest.raises(openai.BadRequestError) as refused:
        tenant.openai.files.create(
            file=("a.jsonl", examples(1)), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 60}
        )
    assert refused.value.param == "expires_after[seconds]"
    assert tenant.left() == (1, 1)


def test_a_deleted_file_is_gone(tenant: Tenant) -> None:
    file_id = tenant.upload()
    assert tenant.openai.files.delete(file_id).deleted
    for call in (tenant.openai.files.retrieve, tenant.openai.files.content, tenant.openai.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {file_id}"):
            call(file_id)


def test_c18_a_file_in_use_stays(tenant: Tenant) -> None:
    file_id = tenant.upload()
    job_id = tenant.job(training_file=file_id)
    with pytest.raises(openai.BadRequestError, match=job_id) as refused:
        tenant.openai.files.delete(file_id)
    assert refused.value.code == "file_in_use"
    tenant.openai.fine_tuning.jobs.cancel(job_id)
    assert tenant.openai.files.delete(file_id).deleted
