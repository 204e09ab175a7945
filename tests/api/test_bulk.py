"""Large files in little memory, and result files as OpenAI encodes them: a web side of its own, over one folder."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64decode
from collections.abc import Iterator

import psutil
import pytest
from sqlalchemy import update

from core.models import File
from core.settings import Settings
from tests.api.place import Place, Tenant, examples, place

MIB = 1024 * 1024
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """As exact as OpenAI where a setting makes it so."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("exact"), log_level="warning", result_files_base64=True)
    with place(settings) as running:
        yield running


def form(field: str, file: Iterator[bytes]) -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    yield f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="a.jsonl"\r\n\r\n'.encode()
    yield from file
    yield b"\r\n--x--\r\n"


class Growth:
    """The most that this process, the web side's too, has grown within the block; in bytes."""

    def __enter__(self) -> Growth:
        self._process = psutil.Process()
        self._at_first = self._process.memory_info().rss
        self.bytes = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ending.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._at_first)

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


def test_c29_a_large_file_in_parts_needs_little_memory(exact: Place) -> None:
    tenant = exact.tenant()
    tenant.upload()  # what the first one imports and opens is no growth
    block = examples(2000, "a fine answer " * 50)
    count = 16 * MIB // len(block)
    declared = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 2 * count * len(block), "mime_type": ""}
    digest = hashlib.md5(block * 2 * count).hexdigest()
    with tenant.http as http, Growth() as growth:
        upload = http.post("/v1/uploads", json=declared).json()["id"]
        parts = [
            http.post(f"/v1/uploads/{upload}/parts", content=form("data", iter([block] * count)), headers=FORM).json()
            for _ in range(2)
        ]
        body = {"part_ids": [part["id"] for part in parts], "md5": digest}
        file = http.post(f"/v1/uploads/{upload}/complete", json=body).json()["file"]
    assert (file["bytes"], file["attune"]["examples"]) == (declared["bytes"], 2 * count * 2000)
    assert growth.bytes < 32 * MIB


def test_c17_a_part_has_at_most_64_mib(exact: Place) -> None:
    declared = {"filename": "a.txt", "purpose": "user_data", "bytes": 5, "mime_type": "text/plain"}
    with exact.tenant().http as http:
        upload = http.post("/v1/uploads", json=declared).json()["id"]
        answer = http.post(f"/v1/uploads/{upload}/parts", files={"data": bytes(64 * MIB + 1)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "data")


def result_file(tenant: Tenant, content: bytes) -> str:
    """Of a job that succeeded, with `content`."""
    job_id = tenant.job()
    tenant.place.prepare(job_id)
    tenant.place.publish(tenant.place.start(job_id), 9, final=True)
    file_id = tenant.openai.fine_tuning.jobs.retrieve(job_id).result_files[0]
    stored = tenant.place.storage.put_bytes(f"projects/{tenant.project_id}/files/{file_id}", content)
    with tenant.place.database.begin() as session:
        key = f"projects/{tenant.project_id}/files/{file_id}"
        session.execute(update(File).where(File.id == file_id).values(storage_key=key, sha256=stored.sha256))
        session.execute(update(File).where(File.id == file_id).values(bytes=stored.bytes))
    return file_id


@pytest.mark.parametrize("size", [0, 1, 2, 3, 3 * MIB + 1])
def test_c19_a_result_file_is_base64_where_the_operator_says_so(exact: Place, size: int) -> None:
    tenant = exact.tenant()
    content = b"step,train_loss\n".ljust(size, b"7")[:size]
    sent = tenant.openai.files.content(result_file(tenant, content)).read()
    assert b64decode(sent, validate=True) == content
    assert tenant.openai.files.content(tenant.upload(examples(3))).read() == examples(3)  # other files stay as they are


def test_c19_a_result_file_is_plain_unless_asked_for_base64(tenant: Tenant) -> None:
    content = b"step,train_loss\n1,2.5\n"
    file_id = result_file(tenant, content)
    assert tenant.openai.files.content(file_id).read() == content
    asked = tenant.openai.files.content(file_id, extra_headers={"Accept": "text/csv; base64, */*"})
    assert b64decode(asked.read(), validate=True) == content
