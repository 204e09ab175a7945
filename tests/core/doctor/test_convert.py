"""Foreign files: what they are is found out, their rows become lines of ours, and what cannot be read says why."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from core.doctor.convert import convert, preview
from core.doctor.orders import Convert, Mapping, Preview, Reading
from core.errors import AttuneError

CHAT = {"messages": [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "Ici"}]}
ROWS = [{"question": "Où?", "answer": "Ici"}] * 3


def converted(tmp_path: Path, name: str, data: bytes, **reading: Any) -> tuple[list[Any], dict[str, Any]]:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(data)
    result = convert(Convert(str(source), name, Reading(**reading), str(out)), lambda stage, share: None)
    return [json.loads(line) for line in out.read_text().splitlines()], dict(result)


def shown(tmp_path: Path, name: str, data: bytes, *, is_head: bool = False, **reading: Any) -> dict[str, Any]:
    source = tmp_path / "source"
    source.write_bytes(data)
    return dict(preview(Preview(str(source), name, Reading(**reading), 10, is_head)))


def workbook(tmp_path: Path) -> bytes:
    """The least that is an .xlsx: two sheets, of which the second has the rows, from its third row on."""
    sheet = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
    rows = [["question", "answer"], ["Où?", "Ici"], ["7", "Ici"]]
    cells = "".join(
        f'<row r="{number}">'
        + "".join(f'<c r="{"BC"[i]}{number}" t="inlineStr"><is><t>{text}</t></is></c>' for i, text in enumerate(row))
        + "</row>"
        for number, row in enumerate(rows, 3)
    )
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    path = tmp_path / "made.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" '
            'ContentType="application/xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{relation}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
            f'xmlns:r="{relation}"><sheets><sheet name="Empty" sheetId="1" r:id="r1"/>'
            '<sheet name="Data" sheetId="2" r:id="r2"/></sheets></workbook>',
        )
        links = "".join(
            f'<Relationship Id="r{n}" Type="{relation}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in (1, 2)
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>',
        )
        archive.writestr("xl/worksheets/sheet1.xml", sheet.format(""))
        archive.writestr("xl/worksheets/sheet2.xml", sheet.format(cells))
    return path.read_bytes()


TABLE = "question{0}answer\nOù?{0}Ici\nOù?{0}Ici\n"


@pytest.mark.parametrize(
    ("name", "data", "format", "encoding"),
    [
        ("a.csv", TABLE.format(",").encode(), "csv", "utf-8"),
        ("a.csv", TABLE.format(";").encode("cp1252"), "csv", "cp1252"),
        ("a.csv", TABLE.format(",").encode("utf-8-sig"), "csv", "utf-8-sig"),
        ("a", TABLE.format("\t").replace("\n", "\r\n").encode("utf-16"), "tsv", "utf-16"),
        ("a", TABLE.format("|").encode("utf-16-le"), "csv", "utf-16-le"),
        ("a.json", json.dumps(ROWS[:2], indent=1).encode(), "json", "utf-8"),
        ("a.json", json.dumps({"version": 1, "data": ROWS[:2]}).encode(), "json", "utf-8"),
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[:2]).encode(), "jsonl", "utf-8"),
    ],
)
def test_text_formats(tmp_path: Path, name: str, data: bytes, format: str, encoding: str) -> None:
    lines, result = converted(tmp_path, name, data)

    assert lines == [CHAT, CHAT]
    assert (result["format"], result["encoding"], result["examples"]) == (format, encoding, 2)


def test_parquet_and_its_lists(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Où?"}, {"from": "gpt", "value": "Ici"}]
    table = pyarrow.Table.from_pylist([{"conversations": turns, "n": 1}] * 1000)
    parquet.write_table(table, tmp_path / "made")

    lines, result = converted(tmp_path, "a.parquet", (tmp_path / "made").read_bytes())

    assert lines == [CHAT] * 1000
    assert result["mapping"]["shape"] == "sharegpt"


def test_a_workbook_by_its_sheet_and_its_rows(tmp_path: Path) -> None:
    data = workbook(tmp_path)
    with pytest.raises(AttuneError, match="'Empty' is empty"):
        converted(tmp_path, "a.xlsx", data)

    seen = shown(tmp_path, "a.xlsx", data, sheet="Data")

    assert seen["sheets"] == ["Empty", "Data"]
    assert [(row["row"], row["example"]["messages"][0]["content"]) for row in seen["rows"]] == [(4, "Où?"), (5, "7")]


@pytest.mark.parametrize(
    ("row", "shape", "example"),
    [
        ({"instruction": "Où?", "input": "", "output": "Ici"}, "alpaca", CHAT),
        ({"messages": CHAT["messages"], "extra": 1}, "messages", CHAT),
        ({"prompt": "a", "completion": " b"}, "completion", {"prompt": "a", "completion": " b"}),
        ({"text": "a b"}, "text", {"text": "a b"}),
        (
            {"system": "S", "prompt": "Où?", "chosen": "Ici", "rejected": "Là"},
            "preference",
            {
                "input": {"messages": [{"role": "system", "content": "S"}, CHAT["messages"][0]]},
                "preferred_output": [CHAT["messages"][1]],
                "non_preferred_output": [{"role": "assistant", "content": "Là"}],
            },
        ),
        (
            {"chosen": CHAT["messages"], "rejected": [CHAT["messages"][0], {"role": "assistant", "content": "Là"}]},
            "preference",
            {
                "input": {"messages": CHAT["messages"][:1]},
                "preferred_output": CHAT["messages"][1:],
                "non_preferred_output": [{"role": "assistant", "content": "Là"}],
            },
        ),
    ],
)
def test_known_forms_are_recognised(tmp_path: Path, row: dict[str, Any], shape: str, example: dict[str, Any]) -> None:
    lines, result = converted(tmp_path, "a.jsonl", (json.dumps(row) + "\n").encode() * 3)

    assert lines == [example] * 3
    assert result["mapping"]["shape"] == shape


def test_columns_of_any_name_are_mapped_by_hand(tmp_path: Path) -> None:
    data = b"Anliegen,Loesung\nwo,hier\n"
    assert shown(tmp_path, "a.csv", data)["mapping"] is None
    with pytest.raises(AttuneError) as refused:
        converted(tmp_path, "a.csv", data)
    assert refused.value.code == "mapping_needed"
    chosen = Mapping("chat", {"user": "Anliegen", "assistant": "Loesung"}, system_text="Kurz.")

    lines, _ = converted(tmp_path, "a.csv", data, mapping=chosen)

    assert [turn["content"] for turn in lines[0]["messages"]] == ["Kurz.", "wo", "hier"]
    with pytest.raises(AttuneError) as refused:
        converted(tmp_path, "a.csv", data, mapping=Mapping("chat", {"user": "Anliegen", "assistant": "no"}))
    assert (refused.value.code, refused.value.param) == ("unknown_column", "mapping.columns.assistant")


def test_bad_rows_are_found_by_line_and_the_rest_is_kept(tmp_path: Path) -> None:
    data = b'question,answer\na,b\n"two\nlines",c\nx,y,too many\n,\nd,\n'

    lines, result = converted(tmp_path, "a.csv", data)

    assert [line["messages"][0]["content"] for line in lines] == ["a", "two\nlines", "d"]
    found = {(finding["line"], finding["code"]) for finding in result["findings"]}
    assert found == {(5, "ragged_row"), (6, "empty_row"), (7, "empty_content")}
    assert (result["rows"], result["examples"], result["skipped"]) == (5, 3, 2)


def test_the_head_of_a_file_ends_before_what_may_be_cut(tmp_path: Path) -> None:
    assert len(shown(tmp_path, "a.csv", b"question,answer\na,b\nc,d\ne,cu", is_head=True)["rows"]) == 2
    assert len(shown(tmp_path, "a.json", json.dumps(ROWS).encode()[:-9], is_head=True)["rows"]) == 1


def test_plain_text_by_paragraph(tmp_path: Path) -> None:
    lines, _ = converted(tmp_path, "a.txt", b"One\nstill one\n\n\nTwo\n")
    assert lines == [{"text": "One\nstill one"}, {"text": "Two"}]


def bomb(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/worksheets/sheet1.xml", bytes(64 * 1024**2))
    return (tmp_path / "bomb").read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.csv", b" \n", "unreadable_file"),
        ("a.xlsx", b"PK\x03\x04" + bytes(100), "unreadable_file"),
        ("a.xls", b"\xd0\xcf\x11\xe0" + bytes(600), "unreadable_file"),
        ("a.parquet", b"PAR1" + bytes(100), "unreadable_file"),
        ("a.csv.gz", b"\x1f\x8b" + bytes(50), "unreadable_file"),
        ("a.json", b'[{"question": "a", "answer": "b"}, {"question": NaN}]', "unreadable_file"),
        ("a.json", b'[{"question": "a", "answer": "b"}', "unreadable_file"),
        ("a.csv", b'question,answer\na,"' + b"x" * (2 * 1024**2), "file_too_large"),
        ("a.csv", b"question,answer\n,\n", "nothing_to_convert"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    with pytest.raises(AttuneError) as refused:
        converted(tmp_path, name, data)
    assert refused.value.code == code


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(AttuneError) as refused:
        converted(tmp_path, "a.xlsx", bomb(tmp_path))
    assert refused.value.code == "file_too_large"
