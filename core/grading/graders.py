"""OpenAI's graders: a score for a model's answer, beside the dataset item that it answers. Values in, values out.

What is wrong with a grader itself is refused; what goes wrong on one answer is a flag beside a reward of 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from core.data.jsonl import Json
from core.errors import AttuneError
from core.grading import similarity
from core.grading.formula import Formula, FormulaError

MAX_GRADERS = 32  # of a multi grader
_REFUSED = {
    "python": "code of strangers is not run here; use string_check or text_similarity, combined by a multi grader",
    "score_model": "no model is asked for a score here; use string_check or text_similarity",
    "label_model": "no model is asked for a label here; use string_check or text_similarity",
}
_REFUSED_METRICS = {
    "cosine": "it compares embeddings, and there is no embedding model here; use fuzzy_match or rouge_l",
    "meteor": "it wants a dictionary of synonyms, which is not kept here; use gleu or rouge_l",
}
_VARIABLE = re.compile(r"\{\{([^{}]*)\}\}")  # no brace within: else a text of braces costs its square
_PATH = re.compile(r"(item|sample)((?:\.[^.\[\]\s]+|\[\d{1,9}\])+)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

ErrorFlag = Literal["formula_parse_error", "invalid_variable_error", "sample_parse_error", "other_error"]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256)


class StringCheck(_Shape):
    """1 where the operation holds, else 0; `like` and `ilike` ask whether the input contains the reference."""

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(_Shape):
    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: str


Single: TypeAlias = StringCheck | TextSimilarity


class _Multi(_Shape):
    type: Literal["multi"]
    graders: dict[str, JsonValue] = Field(min_length=1)
    calculate_output: str


@dataclass(frozen=True)
class Multi:
    name: str
    graders: dict[str, Single]  # by the name that the formula knows
    calculate_output: str


Grader: TypeAlias = Single | Multi


@dataclass
class Grade:
    reward: float
    sub_rewards: dict[str, float] = field(default_factory=dict)  # of a multi grader
    errors: set[ErrorFlag] = field(default_factory=set)


class _Fault(Exception):
    def __init__(self, flag: ErrorFlag) -> None:
        super().__init__(flag)
        self.flag: ErrorFlag = flag


def read_grader(value: Json, param: str = "grader") -> Grader:
    """Raises AttuneError that names the field: unsupported_grader for a kind that is not run here, invalid_grader."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _invalid(param, "give an object with a type: string_check, text_similarity or multi")
    kind = cast(str, value["type"])
    if kind in _REFUSED:
        message = f"{param}.type: {kind} graders are not supported: {_REFUSED[kind]}."
        raise AttuneError(message, code="unsupported_grader", param=f"{param}.type")
    if kind == "multi" and param == "grader":
        return _read_multi(value, param)
    if kind not in _SINGLES:
        raise _invalid(f"{param}.type", f"there is no such grader here: {kind[:60]}")
    made = _shaped(_SINGLES[kind], value, param)
    if isinstance(made, TextSimilarity):
        _check_metric(made.evaluation_metric, param)
    return made


def _read_multi(value: dict[str, Json], param: str) -> Multi:
    shape = _shaped(_Multi, value, param)
    graders = shape.graders
    if isinstance(graders.get("type"), str):  # the official client's type has one grader here, and no names
        graders = {str(graders.get("name")): graders}
    if len(graders) > MAX_GRADERS:
        raise _invalid(f"{param}.graders", f"at most {MAX_GRADERS} graders are taken")
    read: dict[str, Single] = {}
    for name, one in graders.items():
        single = read_grader(cast(Json, one), f"{param}.graders.{name}")
        assert not isinstance(single, Multi)
        read[name] = single
    return Multi(shape.name, read, shape.calculate_output)


def check(grader: Grader) -> None:
    """What is wrong in every run. Raises AttuneError (invalid_grader) for a formula or a variable that cannot be."""
    if isinstance(grader, Multi):
        try:
            unknown = Formula(grader.calculate_output).names - grader.graders.keys()
        except FormulaError as error:
            raise _invalid("grader.calculate_output", str(error)) from error
        if unknown:
            raise _invalid("grader.calculate_output", f"there is no grader named {min(unknown)}")
    for single in grader.graders.values() if isinstance(grader, Multi) else (grader,):
        for text in (single.input, single.reference):
            for variable in cast("list[str]", _VARIABLE.findall(text)):
                if _PATH.fullmatch(variable.strip()) is None:
                    raise _invalid("grader", f"{{{{{variable}}}}} is neither {{{{ item.… }}}} nor {{{{ sample.… }}}}")


def run(grader: Grader, sample: str, item: Json) -> Grade:
    """The reward of `sample`, a model's answer, to the dataset's `item`."""
    if not isinstance(grader, Multi):
        grade = Grade(0.0)
        grade.reward = _score(grader, sample, item, grade.errors)
        return grade
    grade = Grade(0.0)
    for name, single in grader.graders.items():
        grade.sub_rewards[name] = _score(single, sample, item, grade.errors)
    try:
        reward = Formula(grader.calculate_output).evaluate(grade.sub_rewards)
    except FormulaError:
        grade.errors.add("formula_parse_error")
    except (ArithmeticError, ValueError):
        grade.errors.add("other_error")  # a division by zero, the logarithm of nothing
    else:
        # A part that could not be graded says nothing about the whole
        grade.reward = 0.0 if grade.errors else reward
    return grade


def _score(grader: Single, sample: str, item: Json, errors: set[ErrorFlag]) -> float:
    try:
        given, reference = (_filled(text, sample, item) for text in (grader.input, grader.reference))
        if isinstance(grader, StringCheck):
            return float(_holds(grader.operation, given, reference))
        if max(len(given), len(reference)) > similarity.MAX_CHARS:
            raise _Fault("other_error")
        return similarity.METRICS[grader.evaluation_metric](given, reference)
    except _Fault as fault:
        errors.add(fault.flag)
        return 0.0


def _holds(operation: Literal["eq", "ne", "like", "ilike"], given: str, reference: str) -> bool:
    match operation:
        case "eq":
            return given == reference
        case "ne":
            return given != reference
        case "like":
            return reference in given
        case "ilike":
            return reference.casefold() in given.casefold()


def _filled(text: str, sample: str, item: Json) -> str:
    """The text with its {{ namespace.path }} variables in place: strings as they are, anything else as JSON."""

    def value(found: re.Match[str]) -> str:
        path = _PATH.fullmatch(found[1].strip())
        if path is None:
            raise _Fault("invalid_variable_error")
        here = item if path[1] == "item" else _sample(sample, path[2])
        for name, index in cast("list[tuple[str, str]]", _STEP.findall(path[2])):
            here = _step(here, name or index)
        return here if isinstance(here, str) else json.dumps(here, ensure_ascii=False)

    return _VARIABLE.sub(value, text)


def _sample(sample: str, path: str) -> Json:
    """What the answer is known as; read as JSON only where that is asked for."""
    if path.startswith(".output_json"):
        try:
            return {"output_json": json.loads(sample)}
        except (ValueError, RecursionError) as error:
            raise _Fault("sample_parse_error") from error
    return {"output_text": sample, "output_tools": []}


def _step(here: Json, name: str) -> Json:
    if isinstance(here, dict) and name in here:
        return here[name]
    if isinstance(here, list) and len(name) < 10 and name.isdecimal() and int(name) < len(here):
        return here[int(name)]
    raise _Fault("invalid_variable_error")


_SINGLES: Mapping[str, type[Single]] = {"string_check": StringCheck, "text_similarity": TextSimilarity}
_Read = TypeVar("_Read", bound=BaseModel)


def _shaped(kind: type[_Read], value: dict[str, Json], param: str) -> _Read:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join((param, *(str(step) for step in first["loc"])))
        raise _invalid(path, first["msg"]) from error


def _check_metric(metric: str, param: str) -> None:
    path = f"{param}.evaluation_metric"
    if metric in _REFUSED_METRICS:
        message = f"{path}: {metric} is not supported: {_REFUSED_METRICS[metric]}."
        raise AttuneError(message, code="unsupported_grader", param=path)
    if metric not in similarity.METRICS:
        raise _invalid(path, f"choose one of {', '.join(similarity.METRICS)}")


def _invalid(param: str, reason: str) -> AttuneError:
    return AttuneError(f"Invalid grader: {param}: {reason}.", code="invalid_grader", param=param)
