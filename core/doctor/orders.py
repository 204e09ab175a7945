"""What the doctor's process is asked for, as one line of JSON: files in, files out, and nothing of the service."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Format = Literal["jsonl", "json", "csv", "tsv", "xlsx", "parquet", "text"]
Shape = Literal["messages", "sharegpt", "alpaca", "chat", "completion", "preference", "text"]
RepairName = Literal[
    "rename_roles",
    "drop_unknown_fields",
    "remove_control_characters",
    "trim_whitespace",
    "remove_special_tokens",
    "mask_personal_data",
    "drop_empty_turns",
    "merge_turns",
    "end_with_assistant",
    "drop_faulty",
    "drop_too_long",
    "drop_duplicates",
    "drop_near_duplicates",
    "drop_validation_overlap",
]


class Mapping(msgspec.Struct, frozen=True):
    """Which columns hold what of an example. `columns`: part -> column name."""

    shape: Shape
    columns: dict[str, str]
    system_text: str | None = None


class Reading(msgspec.Struct, frozen=True):
    """How to read a file; what is None is found out."""

    format: Format | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    mapping: Mapping | None = None


class Base(msgspec.Struct, frozen=True):
    """A base model as rendering needs it: the folder of its tokenizer, and the date its template is frozen at."""

    model: str
    folder: str
    date: str


class Preview(msgspec.Struct, frozen=True, tag=True):
    """`is_head`: the path holds the first bytes of the file alone."""

    path: str
    filename: str
    reading: Reading
    limit: int
    is_head: bool


class Convert(msgspec.Struct, frozen=True, tag=True):
    path: str
    filename: str
    reading: Reading
    out: str


class Report(msgspec.Struct, frozen=True, tag=True):
    path: str
    validation: str | None
    base: Base | None
    method: Literal["supervised", "dpo"]
    max_tokens: int


class Repair(msgspec.Struct, frozen=True, tag=True):
    """`out` None: a dry run."""

    path: str
    repairs: list[RepairName]
    out: str | None
    validation: str | None
    base: Base | None
    max_tokens: int


class Split(msgspec.Struct, frozen=True, tag=True):
    path: str
    validation_share: float
    seed: int
    training_out: str
    validation_out: str


class Show(msgspec.Struct, frozen=True, tag=True):
    """Examples as they are, or rendered: the lines of `path`, of which the first is `line` of the user's file."""

    path: str
    line: int
    base: Base | None


Order: TypeAlias = Preview | Convert | Report | Repair | Split | Show


class Progress(msgspec.Struct, frozen=True):
    stage: str
    share: float


class Failure(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str | None = None


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the doctor's answer: how far it is, or at the end what came of it."""

    progress: Progress | None = None
    result: dict[str, object] | None = None
    failure: Failure | None = None
