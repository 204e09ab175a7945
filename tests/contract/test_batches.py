"""Batches, driven by the client: created, answered, cancelled, paged (C1, C2, C11, C12, C37)."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.contract.place import BASE, LIMIT_S, Project, raw

CHAT = "/v1/chat/completions"
BATCH_ENDED = ("completed", "failed", "expired", "cancelled")
STRICT = {"_strict_response_validation": True}


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": custom_id}]} if url == CHAT else {"prompt": custom_id}
    body = {"model": BASE, "max_tokens": 4, "seed": 1, **asked, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload(client: OpenAI, lines: list[Any], name: str = "batch.jsonl") -> str:
    data = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    return client.files.create(file=(name, data.encode()), purpose="batch").id


def create(client: OpenAI, lines: list[Any], endpoint: Any = CHAT, **fields: Any) -> Batch:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=endpoint, completion_window="24h", **fields
    )


def wait(client: OpenAI, batch_id: str, *statuses: str) -> Batch:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.status in (*statuses, *BATCH_ENDED):
            return batch
        time.sleep(0.1)
    raise TimeoutError(f"batch {batch_id} is still {batch.status}")


def answers(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    """custom_id -> line of an output or error file, each once."""
    assert file_id is not None
    rows = [json.loads(text) for text in client.files.content(file_id).read().splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_c01_a_batch_of_chats_is_answered_as_the_requests_themselves(project: Project) -> None:
    client = project.client(**STRICT)
    wrong: list[Any] = [
        line("no-such-model", model="ft:none"),
        line("too-hot", temperature=9),
        line("no-messages", messages=[]),
        line("streamed", stream=True),
    ]
    batch = create(client, [line("a"), *wrong, line("b", n=2)], metadata={"purpose": "contract"})
    assert (batch.object, batch.status, batch.endpoint, batch.completion_window) == ("batch", "validating", CHAT, "24h")
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = wait(client, batch.id)
    assert (batch.status, batch.errors) == ("completed", None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (6, 2, 4)
    assert batch.metadata == {"purpose": "contract"}
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
    assert (list(good), list(bad)) == (["a", "b"], [one["custom_id"] for one in wrong])
    for custom_id, more in {"a": {}, "b": {"n": 2}}.items():
        own: Any = client.chat.completions.create(**line(custom_id, **more)["body"])
        shown = good[custom_id]["response"]["body"]
        assert shown["choices"] == own.to_dict()["choices"]
        assert (shown["usage"], good[custom_id]["error"]) == (own.to_dict()["usage"], None)
        assert good[custom_id]["response"]["status_code"] == 200
        assert good[custom_id]["id"].startswith("batch_req_")
    for one in wrong[:3]:
        with pytest.raises(openai.APIStatusError) as failed:
            client.chat.completions.create(**one["body"])
        response = bad[one["custom_id"]]["response"]
        assert response["status_code"] == failed.value.status_code
        assert response["body"] == failed.value.response.json()
    assert bad["streamed"]["response"]["body"]["error"]["param"] == "stream"
    used: Any = batch.to_dict()["usage"]
    assert used["total_tokens"] == sum(row["response"]["body"]["usage"]["total_tokens"] for row in good.values())
    output = client.files.retrieve(batch.output_file_id or "")
    assert (output.purpose, output.status) == ("batch_output", "processed")


def test_c01_a_batch_of_legacy_completions(project: Project) -> None:
    client = project.client(**STRICT)
    lines = [line(name, "/v1/completions") for name in ("one", "two")]
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    extra = {"extra_body": {"output_expires_after": expiry}}  # clients before 1.97 have no argument for it
    batch = wait(client, create(client, lines, "/v1/completions", **extra).id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    found = answers(client, batch.output_file_id)
    assert [row["response"]["body"]["object"] for row in found.values()] == ["text_completion"] * 2
    file: Any = client.files.retrieve(batch.output_file_id or "").to_dict()
    assert file["expires_at"] == pytest.approx(file["created_at"] + 3600, abs=2)


def test_c02_a_bad_input_file_fails_the_batch_and_names_its_lines(project: Project) -> None:
    client = project.client(**STRICT)
    lines = [
        line("same"),
        line("same"),
        {**line("put"), "method": "PUT"},
        line("elsewhere", "/v1/completions"),
        {key: value for key, value in line("x").items() if key != "custom_id"},
        {**line("bodiless"), "body": None},
    ]
    batch = wait(client, create(client, lines).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at
    assert batch.errors is not None
    assert [(error.line, error.code, error.param) for error in batch.errors.data or []] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_method", "method"),
        (4, "mismatched_endpoint", "url"),
        (5, "missing_required_parameter", "custom_id"),
        (6, "missing_required_parameter", "body"),
    ]
    batch = wait(client, create(client, [line("good"), "no json"]).id)
    assert batch.errors is not None
    assert [(error.line, error.code) for error in batch.errors.data or []] == [(2, "invalid_json_line")]


def test_c02_what_cannot_be_a_batch_is_refused_at_once(client: OpenAI, training_file: str) -> None:
    good = upload(client, [line("a")])

    def refused(**fields: Any) -> tuple[int, str | None, str | None]:
        asked: Any = {"input_file_id": good, "endpoint": CHAT, "completion_window": "24h", **fields}
        with pytest.raises(openai.APIStatusError) as failed:
            client.batches.create(**asked)
        return failed.value.status_code, failed.value.code, failed.value.param

    assert refused(input_file_id="file-none") == (404, "file_not_found", "input_file_id")
    assert refused(input_file_id=training_file) == (400, "invalid_file_purpose", "input_file_id")
    assert refused(endpoint="/v1/embeddings") == (400, "unsupported_endpoint", "endpoint")
    assert refused(endpoint="/v1/responses") == (400, "unsupported_endpoint", "endpoint")
    assert refused(completion_window="1h")[0] == 400
    assert refused(metadata={"k": "v" * 513})[0] == 400
    assert refused(extra_body={"request_counts": {}}) == (400, "read_only_parameter", "request_counts")


def test_c12_pages_of_batches_and_cancel_is_idempotent(fresh: Project) -> None:
    client = fresh.client(**STRICT)
    many = [line(f"n{n}", max_tokens=100) for n in range(400)]
    made = [create(client, many).id for _ in range(3)][::-1]
    page = client.batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == (made[:2], True)
    assert [batch.id for batch in client.batches.list(limit=1)] == made
    assert client.batches.list(after=made[-1]).data == []
    shown = raw(client.batches.with_raw_response.list(limit=2))
    assert (shown["first_id"], shown["last_id"]) == (made[0], made[1])
    with pytest.raises(openai.BadRequestError, match="No such batch with id batch_none"):
        client.batches.list(after="batch_none")
    with pytest.raises(openai.NotFoundError, match="No such batch: batch_none"):
        client.batches.retrieve("batch_none")
    wait(client, made[-1], "in_progress")
    for batch_id in made:
        assert client.batches.cancel(batch_id).status in ("cancelling", "cancelled")
        assert client.batches.cancel(batch_id).cancelling_at
    for batch_id in made:
        batch = wait(client, batch_id)
        assert batch.status == "cancelled"
        assert client.batches.cancel(batch_id).status == "cancelled"
        counts = batch.request_counts
        assert counts is not None
        assert counts.total == counts.completed + counts.failed
        if counts.total:  # its file had been validated
            files = (batch.output_file_id, batch.error_file_id)
            rows = [row for file_id in files if file_id for row in answers(client, file_id).values()]
            assert sorted(row["custom_id"] for row in rows) == sorted(one["custom_id"] for one in many)
            unexecuted = [row for row in rows if row["response"] is None]
            assert {row["error"]["code"] for row in unexecuted} == {"batch_cancelled"}


def test_c37_the_async_client_has_batches(project: Project) -> None:
    async def walk() -> None:
        async with project.async_client(**STRICT) as client:
            data = json.dumps(line("a")).encode()
            file = await client.files.create(file=("batch.jsonl", data), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            assert batch.id in [each.id async for each in client.batches.list(limit=1)]
            assert (await client.batches.retrieve(batch.id)).input_file_id == file.id
            assert (await client.batches.cancel(batch.id)).id == batch.id

    asyncio.run(walk())
