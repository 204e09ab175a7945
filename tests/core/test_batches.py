"""A batch under claims: fenced, resumed at a line, ended once, kept within its window; and what its input may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DatabaseError

from core.access import quotas
from core.batches import batches
from core.batches import claims as batch_claims
from core.batches import finish as batch_finish
from core.batches.claims import Answers, BatchClaim
from core.batches.input import MAX_ERRORS, check, requests
from core.batches.models import ENDED, Batch, BatchPart, BatchStatus
from core.db import Database, db_now
from core.errors import AttuneError, QuotaReached, Unavailable
from core.files import files
from core.jobs.holding import Holding
from core.models import File, Project
from core.settings import Settings
from core.store.storage import Storage, open_storage
from core.upkeep import cleaning, erase
from core.webhooks.models import WebhookEvent
from tests.core.rows import add_project

CHAT = "/v1/chat/completions"


def line(custom_id: str, **fields: Any) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **fields}).encode() + b"\n"


LINES = [line(name) for name in "abcd"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(Settings(storage_url=(tmp_path / "objects").as_uri()))


@pytest.fixture
def database(database: Database, storage: Storage) -> Database:
    """With a project and its file of requests."""
    stored = storage.put_bytes("projects/proj_one/files/file-in", b"".join(LINES))
    with database.begin() as session:
        add_project(session)
        session.add(
            File(
                id="file-in", project_id="proj_one", filename="in.jsonl", purpose="batch", bytes=stored.bytes,
                sha256=stored.sha256, storage_key="projects/proj_one/files/file-in", status="processed",
            )
        )  # fmt: skip
    return database


def new_batch(database: Database) -> str:
    with database.begin() as session:
        return batches.create(
            session, "proj_one", endpoint=CHAT, input_file_id="file-in", completion_window="24h", metadata=None,
            output_lifetime_s=None,
        ).id  # fmt: skip


def valid_batch(database: Database) -> str:
    batch_id = new_batch(database)
    with database.begin() as session:
        claim = batch_claims.claim_early(session, "prepare", 60)
        assert claim is not None
        assert batch_claims.validated(session, claim, total=len(LINES), model="tiny")
    return batch_id


def claim_lines(database: Database, holder: str = "worker", lease_s: float = 60) -> BatchClaim | None:
    with database.begin() as session:
        return batch_claims.claim_lines(session, holder, lease_s)


def must_claim(database: Database, holder: str = "worker") -> BatchClaim:
    claim = claim_lines(database, holder)
    assert claim is not None
    return claim


def of(database: Database, batch_id: str) -> Batch:
    with database.read() as session:
        return session.get_one(Batch, batch_id)


def record(database: Database, storage: Storage, claim: BatchClaim, first_line: int, count: int) -> bool:
    key = f"{claim.prefix}/lines-{first_line}-output.jsonl"
    made = [{"custom_id": "abcd"[n - 1], "by": claim.attempt} for n in range(first_line, first_line + count)]
    storage.put_bytes(key, b"".join(json.dumps(one).encode() + b"\n" for one in made))
    with database.begin() as session:
        return batch_claims.record(session, claim, Answers(first_line, count, 0, 10, 5, key, None)) is not None


def finish(database: Database, storage: Storage, claim: BatchClaim, tmp_path: Path) -> BatchStatus | None:
    with Holding(database, claim, lease_s=60, beat_s=60) as holding:
        return batch_finish.finish(database, storage, claim, holding, tmp_path, 1 << 20)


def ids_in(database: Database, storage: Storage, file_id: str | None) -> list[str]:
    assert file_id is not None
    with database.read() as session:
        key = session.get_one(File, file_id).storage_key
    return [json.loads(row)["custom_id"] for row in b"".join(storage.open(key)).splitlines()]


def test_a_lost_attempt_writes_nothing_and_the_next_goes_on_from_the_recorded_line(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    batch_id = valid_batch(database)
    first = must_claim(database)
    assert claim_lines(database) is None, "held"
    assert record(database, storage, first, 1, 2)
    with database.begin() as session:
        assert batch_claims.end_claims_of(session, "worker") == 1
        assert first.beat(session, 60) is None
    second = must_claim(database)
    assert (second.attempt, second.batch.answered) == (first.attempt + 1, 2)
    assert not record(database, storage, first, 3, 2), "a zombie's answers"
    assert record(database, storage, second, 3, 2)
    assert not record(database, storage, second, 3, 2), "the same lines twice"
    with database.begin() as session:
        assert batch_claims.finalize(session, first) is None
        assert not batch_claims.give_back(session, first)
        assert not batch_claims.lose(session, first)
    assert finish(database, storage, second, tmp_path) == BatchStatus.COMPLETED
    batch = of(database, batch_id)
    assert (batch.completed, batch.failed, batch.input_tokens, batch.output_tokens) == (4, 0, 20, 10)
    assert ids_in(database, storage, batch.output_file_id) == list("abcd")
    assert batch.error_file_id is None
    with database.read() as session:
        assert [event.type for event in session.scalars(select(WebhookEvent))] == ["batch.completed"]


def test_what_was_not_executed_stands_in_the_error_file(database: Database, storage: Storage, tmp_path: Path) -> None:
    ends = {"cancel": BatchStatus.CANCELLED, "wait": BatchStatus.EXPIRED}
    for how, expected in ends.items():
        batch_id = valid_batch(database)
        claim = must_claim(database)
        assert record(database, storage, claim, 1, 1)
        with database.begin() as session:
            if how == "cancel":
                assert batches.cancel(session, "proj_one", batch_id).status == BatchStatus.CANCELLING
            else:
                session.execute(update(Batch).where(Batch.id == batch_id).values(expires_at=db_now() - 1))
            flags = claim.beat(session, 60)
            assert flags is not None
            assert (flags.cancel, flags.over_time) == (how == "cancel", how != "cancel")
        folder = tmp_path / how
        folder.mkdir()
        assert finish(database, storage, claim, folder) == expected
        batch = of(database, batch_id)
        assert (batch.status, batch.completed, batch.failed) == (expected, 1, 3)
        assert ids_in(database, storage, batch.output_file_id) == ["a"]
        assert ids_in(database, storage, batch.error_file_id) == ["b", "c", "d"]


def test_a_batch_that_no_worker_takes_is_brought_to_its_end(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    expired, unread = valid_batch(database), new_batch(database)
    with database.begin() as session:
        session.execute(update(Batch).where(Batch.id == expired).values(expires_at=db_now() - 1))
        batches.cancel(session, "proj_one", unread)
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with database.begin() as session:
            claim = batch_claims.claim_early(session, "prepare", 60)
        assert claim is not None
        finish(database, storage, claim, folder)
    assert of(database, expired).status == BatchStatus.EXPIRED
    assert ids_in(database, storage, of(database, expired).error_file_id) == list("abcd")
    gone = of(database, unread)
    assert (gone.status, gone.total, gone.output_file_id, gone.error_file_id) == ("cancelled", 0, None, None)


def test_an_ended_batch_is_final_in_the_database_itself(database: Database) -> None:
    for end in ENDED:
        batch_id = new_batch(database)
        with database.begin() as session:
            session.execute(update(Batch).where(Batch.id == batch_id).values(status=end))
        with pytest.raises(DatabaseError, match="a finished batch is final"), database.begin() as session:
            session.execute(text("UPDATE batches SET status = 'validating' WHERE id = :id"), {"id": batch_id})


def test_lost_claims_wait_longer_and_longer_but_never_give_up(database: Database) -> None:
    batch_id = valid_batch(database)
    waits: list[float] = []
    for _ in range(12):
        claim = must_claim(database)
        with database.begin() as session:
            session.execute(update(Batch).where(Batch.id == batch_id).values(lease_until=db_now() - 1))
            assert batch_claims.end_expired(session) == 1
            wait_s = session.scalar(select(Batch.not_before - db_now()).where(Batch.id == batch_id))
            session.execute(update(Batch).where(Batch.id == batch_id).values(not_before=0.0))
        waits.append(round(wait_s or 0.0))
        assert claim.attempt == len(waits) + 1  # the first was for validation
    assert waits[:4] == [0, 5, 10, 20]
    assert waits[-1] == batch_claims.MAX_BACKOFF_S


def test_batches_take_turns(database: Database) -> None:
    one, two = valid_batch(database), valid_batch(database)
    claim = must_claim(database)
    assert claim.batch.id == one
    with database.begin() as session:
        assert batch_claims.any_waiting(session)
        assert batch_claims.give_back(session, claim)
    assert [must_claim(database).batch.id for _ in range(2)] == [two, one]
    with database.read() as session:
        assert not batch_claims.any_waiting(session)


def test_its_input_is_kept_while_it_is_read_and_its_parts_go_after_it(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    batch_id = valid_batch(database)
    claim = must_claim(database)
    with pytest.raises(AttuneError, match=f"in use by the batch {batch_id}"), database.begin() as session:
        files.delete(session, "proj_one", "file-in")
    with database.begin() as session:
        session.execute(update(File).values(expires_at=db_now() - 1))
    assert cleaning.remove_files(database, storage) == 0
    assert record(database, storage, claim, 1, 4)
    assert finish(database, storage, claim, tmp_path) == BatchStatus.COMPLETED
    assert cleaning.sweep_ended_batches(database, storage, 0.0) == 1
    assert cleaning.sweep_ended_batches(database, storage, 0.0) == 0
    left = [entry.key for entry in storage.list("projects/proj_one/batches")]
    assert [key.rsplit("/", 1)[-1] for key in left] == ["output.jsonl"]
    with database.read() as session:
        assert session.scalars(select(BatchPart)).all() == []
    assert cleaning.remove_files(database, storage) == 1  # the input; nothing holds it any more


def test_a_project_counts_its_batches_and_takes_them_along(database: Database, storage: Storage) -> None:
    valid_batch(database)
    held = must_claim(database)
    with database.begin() as session:
        session.execute(update(Project).values(max_jobs=1))
    with pytest.raises(QuotaReached, match="1 unfinished jobs and batches"):
        new_batch(database)
    assert record(database, storage, held, 1, 1)
    with pytest.raises(Unavailable, match="being stopped"):
        erase.erase_project(database, storage, "proj_one")
    with database.begin() as session:
        assert quotas.usage(session, "proj_one").jobs == 1
        assert batch_claims.end_claims_of(session, "worker") == 1
    erase.erase_project(database, storage, "proj_one")
    assert not list(storage.list("projects/proj_one"))
    with database.read() as session:
        assert session.scalars(select(Batch)).all() == []


def test_lines_are_read_from_any_line_on(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(LINES).replace(b"\n", b"\r\n") + b"\r\n")
    found = check(path, CHAT, 1 << 20)
    assert (found.total, found.model, found.faults) == (4, "tiny", [])
    assert [(one.line, one.custom_id) for one in requests(path, 2, 1 << 20)] == [(3, "c"), (4, "d")]
    path.write_bytes(LINES[0] + line("z", body={"model": "other"}))
    assert check(path, CHAT, 1 << 20).model is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (None, "invalid_file_format", None)),
        (b"PK\x03\x04" + bytes(40), (None, "invalid_file_format", None)),
        (LINES[0] + b"\n" + LINES[1], (2, "invalid_file_format", None)),
        (LINES[0] + b"[1]\n" + LINES[1], (2, "invalid_json_line", None)),
        (LINES[0] + b'{"custom_id": "x", "custom_id": "y"}\n', (2, "duplicate_key", "custom_id")),
        (LINES[0] + line("x" * 513), (2, "invalid_custom_id", "custom_id")),
        (LINES[0] + line("x", url="/v1/embeddings"), (2, "mismatched_endpoint", "url")),
        (LINES[0] + line("x", body={"messages": []}), (2, "missing_required_parameter", "body.model")),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes, expected: tuple[object, ...]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(data)
    (fault,) = check(path, CHAT, 1 << 20).faults
    assert (fault.line, fault.code, fault.param) == expected


def test_no_more_faults_are_told_than_anybody_reads(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINES[0] * (MAX_ERRORS + 50))
    assert len(check(path, CHAT, 1 << 20).faults) == MAX_ERRORS
