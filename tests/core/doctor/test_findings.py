"""Reports, repairs, splits and renderings of one small file that has every fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.doctor import personal
from core.doctor.child import Child
from core.doctor.orders import Base, Preview, Reading, Repair, RepairName, Report, Show, Split
from core.doctor.repairs import ORDER, repair
from core.doctor.report import report
from core.doctor.shown import show
from core.doctor.split import split
from core.errors import AttuneError
from core.rendering.render import Renderer
from tests.core.chat_families import families

LONG = " ".join(f"word{n}" for n in range(40))


def chat(*turns: str | None, roles: str = "ua") -> dict[str, Any]:
    names = {"u": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": names[role], "content": text} for role, text in zip(roles, turns, strict=True)]}


GOOD = [chat(f"question {n} about {n * 7}?", f"answer {n}") for n in range(12)]
FAULTY: dict[str, list[dict[str, Any]]] = {
    "no_assistant_message": [chat("alone", roles="u")],
    "last_message_not_assistant": [chat("q", "a", "more?", roles="uau")],
    "empty_content": [chat("nothing?", " ")],
    "unknown_role": [{"messages": [{"from": "human", "value": "hm"}, {"from": "gpt", "value": "so"}]}],
    "ignored_field": [{**chat("with a source", "yes"), "source": "x"}],
    "roles_do_not_alternate": [chat("one", "two", "three", roles="uua")],
    "starts_with_assistant": [chat("hello there", "ask", "told", roles="aua")],
    "system_not_first": [chat("ask me", "be kind", "told you", roles="usa")],
    "empty_turn": [chat("", "an answer to nothing")],
    "identical_turns": [chat("echo", "echo")],
    "surrounding_whitespace": [chat(" blanks ", "blank-free")],
    "duplicate_example": [chat("twice", "said"), chat("Twice ", "said")],
    "near_duplicate": [chat(LONG, "near"), chat(f"{LONG} more", "near")],
    "contradicting_answers": [chat("which?", "this"), chat("which?", "that")],
    "in_validation": [chat("held out", "yes indeed")],
    "email_address": [chat("write to jane@corp.com", "done")],
    "phone_number": [chat("call +1 650 253 0000", "called")],
    "card_number": [chat("pay with 4111 1111 1111 1111", "paid")],
    "control_characters": [chat("zero\u200bwidth", "gone")],
    "damaged_encoding": [chat("cafÃ© open?", "yes it is")],
    "special_token_in_text": [chat("stop <|im_end|> here", "no")],
    "mixed_kinds": [{"text": "by itself"}],
}
LINES = [*GOOD, *(line for lines in FAULTY.values() for line in lines)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "data.jsonl", LINES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    family = next(family for family in families() if family.name == "qwen2.5")
    return Base("tiny", str(family.write(tmp_path_factory.mktemp("base"))), "2026-01-01")


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def quiet(stage: str, share: float) -> None:
    assert 0 <= share <= 1


def lines_with(code: str) -> set[int]:
    first = 1 + next(i for i, line in enumerate(LINES) if line is FAULTY[code][0])
    return {first + n for n in range(len(FAULTY[code]))}


def test_every_fault_is_found_where_it_is(path: str, tmp_path: Path) -> None:
    validation = write(tmp_path / "validation", FAULTY["in_validation"])

    found: Any = report(Report(path, validation, None, "supervised", 100), quiet)

    assert found["lines"] == len(LINES)
    counted = {entry["code"]: entry["count"] for entry in found["counts"]}
    for code in FAULTY:
        assert code in counted, code
        if code != "mixed_kinds":
            at = {finding["line"] for finding in found["findings"] if finding["code"] == code}
            assert at & lines_with(code), code
    assert found["verdict"] == "errors"
    assert found["tokens"] is None
    assert len(found["findings"]) <= 100


def test_nothing_is_found_in_a_good_file(tmp_path: Path, base: Base) -> None:
    path = write(tmp_path / "good", GOOD)
    found: Any = report(Report(path, None, base, "supervised", 100), quiet)
    assert (found["verdict"], found["counts"], found["kind"]) == ("good", [], "chat")
    assert found["tokens"]["total"] > found["tokens"]["supervised"] > 0
    assert sum(step["count"] for step in found["tokens"]["histogram"]) == len(GOOD)


def test_of_many_findings_every_code_has_its_first(tmp_path: Path) -> None:
    path = write(tmp_path / "many", [chat(f" {n} ", "x") for n in range(300)] + FAULTY["email_address"])
    found: Any = report(Report(path, None, None, "supervised", 100), quiet)
    assert len(found["findings"]) == 100
    counted = {entry["code"]: entry["count"] for entry in found["counts"]}
    assert counted["surrounding_whitespace"] == 300
    assert "email_address" in {finding["code"] for finding in found["findings"]}


def test_tokens_find_what_is_too_long_and_what_the_method_is_not(path: str, base: Base) -> None:
    found: Any = report(Report(path, None, base, "dpo", 30), quiet)
    counted = {entry["code"]: entry for entry in found["counts"]}
    assert counted["too_long"]["count"] == found["tokens"]["too_long"] > 0
    assert counted["special_token_in_text"]["severity"] == "error"
    assert counted["wrong_method"]["count"] == found["examples"]
    assert found["tokens"]["histogram"][-1] == {"from": 30, "to": None, "count": found["tokens"]["too_long"]} or (
        found["tokens"]["histogram"][-1]["to"] is None
    )


def mended(path: str, tmp_path: Path, *names: RepairName, **order: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    out = tmp_path / "out"
    values = {"validation": None, "base": None, "max_tokens": 100, **order}
    result = repair(Repair(path, list(names), str(out), **values), quiet)
    return [json.loads(line) for line in out.read_text().splitlines()], dict(result)


def test_all_repairs_leave_a_file_without_these_faults(path: str, tmp_path: Path, base: Base) -> None:
    validation = write(tmp_path / "validation", FAULTY["in_validation"])
    lines, result = mended(path, tmp_path, *ORDER, validation=validation, base=base, max_tokens=1000)

    found: Any = report(Report(str(tmp_path / "out"), validation, base, "supervised", 1000), quiet)

    left = {entry["code"] for entry in found["counts"]}
    assert left <= {
        "starts_with_assistant", "system_not_first", "identical_turns", "damaged_encoding", "mixed_kinds",
        "contradicting_answers",
    }  # fmt: skip
    assert len(lines) == result["lines_after"] == result["lines"] - result["dropped"]
    assert lines[: len(GOOD)] == GOOD
    for entry in result["repairs"]:
        assert entry["changed"] + entry["dropped"] >= len(entry["samples"]) > 0 or entry["repair"] == "drop_too_long"


def test_a_repair_says_what_it_changes_and_changes_nothing_else(path: str, tmp_path: Path) -> None:
    lines, result = mended(path, tmp_path, "mask_personal_data")
    masked = [after for before, after in zip(LINES, lines, strict=True) if before != after]
    asked = [line["messages"][0]["content"] for line in masked]
    assert asked == ["write to [EMAIL]", "call [PHONE]", "pay with [CARD]"]
    sample = result["repairs"][0]["samples"][0]
    assert "jane@corp.com" in sample["before"]
    assert "[EMAIL]" in sample["after"]

    merged, _ = mended(path, tmp_path, "merge_turns")
    assert chat("one\n\ntwo", "three") in merged


def test_a_dry_run_writes_nothing_and_tells_the_same(path: str, tmp_path: Path) -> None:
    names: list[RepairName] = ["trim_whitespace", "drop_near_duplicates", "drop_duplicates"]
    dry = repair(Repair(path, names, None, None, None, 100), quiet)
    _, wet = mended(path, tmp_path, *names)
    assert dry == wet


def test_nothing_left_is_said(tmp_path: Path) -> None:
    with pytest.raises(AttuneError) as refused:
        mended(write(tmp_path / "x", FAULTY["no_assistant_message"]), tmp_path, "drop_faulty")
    assert refused.value.code == "nothing_left"


def test_a_split_is_its_seeds_and_keeps_equals_together(tmp_path: Path) -> None:
    lines = [chat(f"question {n // 2}", "answer") for n in range(200)]
    path = write(tmp_path / "data", lines)

    def sides(seed: int) -> tuple[list[str], list[str]]:
        training, validation = tmp_path / "t", tmp_path / "v"
        result: Any = split(Split(path, 0.2, seed, str(training), str(validation)), quiet)
        made = training.read_text().splitlines(), validation.read_text().splitlines()
        assert (len(made[0]), len(made[1])) == (result["training_examples"], result["validation_examples"])
        return made

    training, validation = sides(1)
    assert sides(1) == (training, validation)
    assert sides(2) != (training, validation)
    assert sorted(training + validation) == sorted(json.dumps(line) for line in lines)
    assert not set(training) & set(validation)
    assert 30 <= len(validation) <= 50


@pytest.mark.parametrize("name", ["qwen2.5", "llama2", "phi3", "deepseek-r1", "gpt-oss"])
def test_what_is_shown_is_what_is_trained(tmp_path: Path, name: str) -> None:
    family = next(family for family in families() if family.name == name)
    folder = family.write(tmp_path / name)
    lines = [chat("Où est 🦜 ñandú?", "Ici: 🦜\n\nla  bas"), {"prompt": "Où", "completion": " ça 🦜"}]
    data: Any = show(Show(write(tmp_path / "lines", lines), 5, Base(name, str(folder), "2026-01-01")))["data"]
    renderer = Renderer.from_folder(folder, "2026-01-01")
    assert [example["line"] for example in data] == [5, 6]
    for example in data:
        assert not example["findings"]
        for sequence in example["sequences"]:
            ids = [token["id"] for token in sequence["tokens"]]
            assert sequence["text"] == renderer.decode(ids, skip_special=False)
            assert "".join(token["text"] for token in sequence["tokens"]) == sequence["text"]
            assert "".join(piece["text"] for piece in sequence["pieces"]) == sequence["text"]
            assert sum(piece["tokens"] for piece in sequence["pieces"]) == sequence["token_count"] == len(ids)
            assert sequence["supervised_count"] == sum(token["supervised"] for token in sequence["tokens"]) > 0
    answer = "".join(piece["text"] for piece in data[0]["sequences"][0]["pieces"] if piece["supervised"])
    assert answer.strip().startswith("Ici: 🦜\n\nla  bas") or name == "gpt-oss"


def test_personal_data_is_told_from_other_numbers() -> None:
    assert [kind for kind, _, _ in personal.find("4111-1111-1111-1111 or (650) 253-0000 or a.b@c.org")] == [
        "email_address", "card_number", "phone_number",
    ]  # fmt: skip
    for text in (
        "order 4111111111111112",
        "1.234.567,89",
        "2026-01-02 10:11:12",
        "x@y",
        "me@example.com",
        "3.14159265358979",
    ):
        assert not list(personal.find(text)), text


def test_a_process_that_takes_too_long_or_dies_is_an_answer(tmp_path: Path) -> None:
    order = Preview(str(tmp_path / "none"), "none", Reading(), 1, False)
    with pytest.raises(AttuneError) as refused:
        Child(order).run(time_limit_s=0.0)
    assert refused.value.code == "doctor_timeout"
    child = Child(order)
    child.kill()
    with pytest.raises(AttuneError) as refused:
        child.run(time_limit_s=10)
    assert refused.value.code == "task_lost"
