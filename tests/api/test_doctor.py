"""The dataset doctor by REST: what is asked for is carried out by a claim, what is made is a file of the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.doctor import tasks as doctor_tasks
from core.doctor.models import DoctorTask
from core.doctor.work import Desk
from core.models import BaseModelRow
from core.upkeep import erase
from tests.api.place import Place, Tenant, examples
from tests.core.chat_families import families

TABLE = b"Frage;Antwort\n" + b"".join(b"wo ist %d?;hier %d\n" % (n, n) for n in range(12)) + b"leer?;\n"


def desk(web: Place, holder: str = "desk") -> Desk:
    return Desk(web.settings, web.database, web.storage, holder)


def upload(tenant: Tenant, data: bytes, name: str = "fragen.csv", purpose: str = "user_data") -> str:
    return tenant.openai.files.create(file=(name, data), purpose=purpose).id  # pyright: ignore[reportArgumentType]


def done(web: Place, tenant: Tenant, route: str, **body: Any) -> dict[str, Any]:
    """The task after the desk has carried it out."""
    with tenant.http as http:
        answer = http.post(f"/v1/attune/{route}", json=body)
        assert answer.status_code == 200, answer.text
        task = answer.json()
        assert (task["status"], task["progress"]) == ("queued", {"stage": "waiting", "share": 0.0})
        while desk(web).look():
            pass
        return http.get(f"/v1/attune/{route}/{task['id']}").json()


@pytest.fixture(scope="session")
def base(web: Place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base with a tokenizer in storage, beside the place's own, which has none."""
    folder: Path = next(f for f in families() if f.name == "qwen2.5").write(tmp_path_factory.mktemp("base"))
    files: list[dict[str, Any]] = []
    for path in folder.iterdir():
        stored = web.storage.put_bytes(f"bases/tokenized/r1/{path.name}", path.read_bytes())
        files.append({"path": path.name, "bytes": stored.bytes, "sha256": stored.sha256})
    row = BaseModelRow(
        id="tiny/tokenized", source="folder", location="tokenized", revision="r1", status="ready", shape={},
        files=files, light_prefix="bases/tokenized/r1", context_tokens=256,
    )  # fmt: skip
    with web.database.begin() as session:
        session.add(row)
    return "tiny/tokenized"


def test_a_broken_table_becomes_a_file_that_can_be_trained_on(web: Place, tenant: Tenant, base: str) -> None:
    source = upload(tenant, TABLE)
    with tenant.http as http:
        preview = http.post("/v1/attune/conversions/preview", json={"file_id": source, "limit": 3}).json()
    assert (preview["format"], preview["delimiter"], preview["recognised"]) == ("csv", ";", True)
    assert [row["row"] for row in preview["rows"]] == [2, 3, 4]

    made = done(web, tenant, "conversions", file_id=source)
    assert made["status"] == "succeeded", made
    assert made["progress"] == {"stage": "done", "share": 1.0}
    converted = tenant.openai.files.retrieve(made["result"]["file_id"])
    assert (converted.filename, converted.purpose, converted.status) == ("fragen-converted.jsonl", "fine-tune", "error")
    assert tenant.openai.files.content(source).content == TABLE

    report = done(web, tenant, "reports", file_id=converted.id, model=base)["result"]
    assert report["verdict"] == "errors"
    assert report["findings"][0]["line"] == 13
    assert report["findings"][0]["repairs"] == ["drop_faulty"]
    assert report["tokens"]["max_tokens"] == 256

    dry = done(web, tenant, "repairs", file_id=converted.id, repairs=["drop_faulty"])["result"]
    assert (dry["file_id"], dry["dropped"], dry["repairs"][0]["samples"][0]["after"]) == (None, 1, None)
    wet = done(web, tenant, "repairs", file_id=converted.id, repairs=["drop_faulty"], dry_run=False)["result"]
    assert {**wet, "file_id": None} == dry
    assert tenant.openai.files.retrieve(wet["file_id"]).status == "processed"

    split = done(web, tenant, "splits", file_id=wet["file_id"], validation_share=0.25, seed=7)["result"]
    assert (split["training_examples"], split["validation_examples"]) == (9, 3)
    assert tenant.openai.files.retrieve(split["validation_file_id"]).status == "processed"


def test_examples_as_they_are_and_as_they_are_trained(web: Place, tenant: Tenant, base: str) -> None:
    file_id = tenant.upload(examples(30))
    with tenant.http as http:
        plain = http.get(f"/v1/attune/files/{file_id}/examples", params={"line": 28, "limit": 20}).json()
        shown = http.get(f"/v1/attune/files/{file_id}/examples", params={"model": base, "limit": 1}).json()
        none = http.get(f"/v1/attune/files/{file_id}/examples", params={"line": 31}).json()
    assert [example["line"] for example in plain["data"]] == [28, 29, 30]
    assert (plain["has_more"], shown["has_more"], none["data"]) == (False, True, [])
    assert plain["data"][0]["sequences"] is None
    (sequence,) = shown["data"][0]["sequences"]
    assert sequence["text"].count("<|im_start|>") == 3  # with the template's own system text
    answer = [token["text"] for token in sequence["tokens"] if token["supervised"]]
    assert "".join(answer) == "fine<|im_end|>"


@pytest.mark.parametrize(
    ("route", "body", "status", "code"),
    [
        ("reports", {"model": "none"}, 404, "model_not_found"),
        ("reports", {"validation_file_id": "file-none"}, 404, "file_not_found"),
        ("repairs", {"repairs": []}, 400, "invalid_value"),
        ("repairs", {"repairs": ["drop_too_long"]}, 400, "model_needed"),
        ("repairs", {"repairs": ["drop_validation_overlap"]}, 400, "missing_required_parameter"),
        ("splits", {"validation_share": 0.6}, 400, "invalid_value"),
        ("conversions", {"mapping": {"shape": "chat", "columns": {}, "x": 1}}, 400, "unknown_parameter"),
        ("conversions/preview", {"format": "parquet"}, 400, "unreadable_file"),
        ("conversions/preview", {"encoding": "hex"}, 400, "invalid_value"),
        (
            "conversions/preview",
            {"mapping": {"shape": "chat", "columns": {"user": "no", "assistant": "Antwort"}}},
            400,
            "unknown_column",
        ),
    ],
)
def test_refusals_name_the_field(tenant: Tenant, route: str, body: dict[str, Any], status: int, code: str) -> None:
    with tenant.http as http:
        answer = http.post(f"/v1/attune/{route}", json={"file_id": upload(tenant, TABLE), **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_what_goes_wrong_is_the_tasks_error(web: Place, tenant: Tenant) -> None:
    unknown = done(web, tenant, "conversions", file_id=upload(tenant, b"a,b\nc,d\n"))
    assert (unknown["status"], unknown["error"]["code"]) == ("failed", "mapping_needed")
    foreign = done(web, tenant, "reports", file_id=upload(tenant, TABLE))
    assert (foreign["status"], foreign["error"]["code"]) == ("failed", "invalid_file_format")


def test_a_project_has_four_at_once_and_nothing_of_anothers(web: Place, tenant: Tenant) -> None:
    file_id = tenant.upload()
    other = web.tenant("other")
    with tenant.http as http, other.http as foreign:
        made = [http.post("/v1/attune/reports", json={"file_id": file_id}).json()["id"] for _ in range(4)]
        refused = http.post("/v1/attune/splits", json={"file_id": file_id})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_tasks")
        assert "retry-after" in refused.headers
        assert foreign.get(f"/v1/attune/reports/{made[0]}").status_code == 404
        assert foreign.get("/v1/attune/reports").json()["data"] == []
        assert foreign.get(f"/v1/attune/files/{file_id}/examples").status_code == 404
        for route in ("reports", "splits", "conversions", "conversions/preview"):
            assert foreign.post(f"/v1/attune/{route}", json={"file_id": file_id}).status_code == 404
        first = http.get("/v1/attune/reports", params={"limit": 3}).json()
        rest = http.get("/v1/attune/reports", params={"after": first["last_id"]}).json()
        assert [task["id"] for task in first["data"] + rest["data"]] == made[::-1]
        assert (first["has_more"], rest["has_more"]) == (True, False)
    erase.erase_project(web.database, web.storage, tenant.project_id)
    with web.database.read() as session:
        assert not session.query(DoctorTask).filter_by(project_id=tenant.project_id).count()


def test_a_task_whose_process_died_is_taken_again_and_late_writes_are_not(web: Place, tenant: Tenant) -> None:
    with tenant.http as http:
        task_id = http.post("/v1/attune/reports", json={"file_id": tenant.upload()}).json()["id"]
    with web.database.begin() as session:
        dead = doctor_tasks.claim(session, "dying", 600)
    assert dead is not None
    assert dead.task.id == task_id
    with web.database.begin() as session:
        assert doctor_tasks.end_claims_of(session, "dying") == 1
    assert desk(web).look()
    with web.database.begin() as session:
        assert not doctor_tasks.beat(session, dead, 600, "examples", 0.5)
        assert not doctor_tasks.succeed(session, dead, {})
    with tenant.http as http:
        told = http.get(f"/v1/attune/reports/{task_id}").json()
    assert (told["status"], told["result"]["examples"]) == ("succeeded", 12)
    assert json.dumps(told["request"])
