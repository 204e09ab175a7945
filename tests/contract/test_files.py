"""Files as they go up, are checked, are used and come back (C15, C16, C18, C19, C28, C29)."""

from __future__ import annotations

import base64
import csv
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, examples, raw, upload, wait_until

MIB = 1024**2
LARGE_BYTES = 128 * MIB  # `make bench-upload` sends the 512 MiB that POST /files takes
GROWTH_BYTES = 48 * MIB


def test_c15_a_sound_file_is_processed(client: OpenAI) -> None:
    file = client.files.create(file=("sound.jsonl", examples(12)), purpose="fine-tune")
    assert file.status in ("uploaded", "processed")
    done = client.files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=20)
    assert (done.status, done.bytes, done.filename) == ("processed", len(examples(12)), "sound.jsonl")


def test_c15_a_faulty_file_is_an_error_with_its_reason(client: OpenAI) -> None:
    faulty = examples(11) + b'\n{"messages": [{"role": "user", "content": 7}]}'
    file = client.files.create(file=("faulty.jsonl", faulty), purpose="fine-tune")
    done = client.files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=20)
    assert done.status == "error"
    assert "line 12" in (done.status_details or "")
    with pytest.raises(openai.BadRequestError, match="line 12") as refused:
        client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    assert refused.value.param == "training_file"


def test_c15_what_is_no_jsonl_is_refused_in_openais_words(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Expected file to have JSONL format") as refused:
        client.files.create(file=("list.jsonl", b"[1, 2]\n"), purpose="fine-tune")
    assert "Line 1 is not a dictionary" in refused.value.message


def test_c16_expires_after_is_read_from_its_brackets(client: OpenAI) -> None:
    def sent(seconds: int, anchor: str = "created_at") -> Any:
        after: Any = {"anchor": anchor, "seconds": seconds}
        return client.files.with_raw_response.create(
            file=("a.jsonl", examples(12)), purpose="fine-tune", expires_after=after
        )

    answer = sent(7200)
    assert b'name="expires_after[seconds]"' in answer.http_response.request.read()
    file = answer.parse()
    assert file.expires_at == file.created_at + 7200
    assert client.files.retrieve(file.id).expires_at == file.expires_at
    for wrong in ((3599, "created_at"), (30 * 24 * 3600 + 1, "created_at"), (7200, "last_active_at")):
        with pytest.raises(openai.BadRequestError) as refused:
            sent(*wrong)
        assert (refused.value.param or "").startswith("expires_after")


def test_c18_a_file_in_use_is_not_deleted(client: OpenAI) -> None:
    file_id = upload(client, examples(12))
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file_id)
    with pytest.raises(openai.BadRequestError, match=job.id) as refused:
        client.files.delete(file_id)
    assert refused.value.code == "file_in_use"
    client.fine_tuning.jobs.cancel(job.id)
    wait_until(client, job.id)
    gone = client.files.delete(file_id)
    assert (gone.id, gone.object, gone.deleted) == (file_id, "file", True)
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file_id}"):
        client.files.retrieve(file_id)


def test_c19_results_are_plain_or_base64_as_asked(client: OpenAI, trained: FineTuningJob) -> None:
    file_id = trained.result_files[0]
    plain = client.files.content(file_id).read()
    rows = list(csv.reader(plain.decode().splitlines()))
    assert rows[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [row[0] for row in rows[1:]] == [str(step) for step in range(1, 25)]
    assert all(float(row[1]) > 0 for row in rows[1:])
    asked = client.files.content(file_id, extra_headers={"Accept": "text/csv;base64"})
    assert base64.b64decode(asked.read(), validate=True) == plain
    assert client.files.retrieve(file_id).purpose == "fine-tune-results"


def test_c28_byte_order_mark_crlf_and_blank_end(client: OpenAI) -> None:
    data = b"\xef\xbb\xbf" + examples(12).replace(b"\n", b"\r\n") + b"\r\n\r\n\n"
    file_id = upload(client, data, "windows.jsonl")
    shown = raw(client.files.with_raw_response.retrieve(file_id))
    assert (shown["status"], shown["attune"]["examples"]) == ("processed", 12)
    assert client.files.content(file_id).read() == data
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file_id)
    job = wait_until(client, job.id, "queued", "running")
    client.fine_tuning.jobs.cancel(job.id)
    assert job.status in ("queued", "running", "succeeded"), job.error


class WebMemory:
    """By how many resident bytes the web process grows within the block, at most; its own /metrics say so."""

    def __init__(self, address: str, operator_key: str) -> None:
        self._asked = urllib.request.Request(f"{address}/metrics", headers={"Authorization": f"Bearer {operator_key}"})
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.growth = self.looks = 0

    def _resident(self) -> int:
        with self._direct.open(self._asked, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("process_resident_memory_bytes "))

    def __enter__(self) -> WebMemory:
        self._at_first = self._resident()
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ending.wait(0.05):
            self.growth = max(self.growth, self._resident() - self._at_first)
            self.looks += 1

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.long
def test_c29_a_large_file_streams_through(client: OpenAI, service: tuple[str, str], tmp_path: Path) -> None:
    upload(client, examples(12))  # what the first upload opens and imports is no growth
    block = (examples(20_000) + b"\n")[: 8 * MIB]
    block = block[: block.rindex(b"\n") + 1]
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES // len(block)):
            file.write(block)
    begun = time.monotonic()
    with WebMemory(*service) as memory, path.open("rb") as file:
        sent: Any = client.files.create(file=file, purpose="fine-tune", timeout=120)
    assert sent.bytes == path.stat().st_size > LARGE_BYTES - len(block)
    assert sent.to_dict()["attune"]["examples"] == block.count(b"\n") * (LARGE_BYTES // len(block))
    assert memory.looks > 5
    assert memory.growth < GROWTH_BYTES, f"{memory.growth / MIB:.0f} MiB in {time.monotonic() - begun:.1f} s"
    assert client.files.delete(sent.id).deleted
