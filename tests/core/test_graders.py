"""Graders by hand-reckoned values, and by what must hold for any texts."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import AttuneError
from core.grading import graders
from core.grading.formula import Formula, FormulaError
from core.grading.similarity import METRICS, common_subsequence


def grade(grader: dict[str, Any], sample: str = "Oslo", item: Any = None) -> graders.Grade:
    return graders.run(graders.read_grader({"name": "g", **grader}), sample, item)


def check(operation: str, given: str, reference: str) -> dict[str, Any]:
    return {"name": "c", "type": "string_check", "input": given, "reference": reference, "operation": operation}


@pytest.mark.parametrize(
    ("operation", "given", "reference", "reward"),
    [
        ("eq", "Oslo", "Oslo", 1),
        ("eq", "Oslo", "oslo", 0),
        ("ne", "Oslo", "oslo", 1),
        ("like", "in Oslo", "Oslo", 1),
        ("like", "in Oslo", "oslo", 0),
        ("ilike", "in Oslo", "oSLO", 1),
        ("ilike", "Oslo", "in Oslo", 0),
    ],
)
def test_string_check(operation: str, given: str, reference: str, reward: float) -> None:
    assert grade(check(operation, given, reference)).reward == reward


@pytest.mark.parametrize(
    ("metric", "text", "reference", "score"),
    [
        ("fuzzy_match", "this is a test", "this is a test!", 28 / 29),  # rapidfuzz's own example: 96.55
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 1.0),
        # Hits 5/6, 3/5, 1/4, and none of 3: smoothed to 1/2
        ("bleu", "the cat sat on a mat", "the cat sat by a mat", math.exp(math.log(5 / 6 * 3 / 5 / 4 / 6) / 4)),
        ("bleu", "the cat", "the cat sat on the mat", math.exp(1 - 6 / 2)),
        ("bleu", "dog", "cat", 0.0),
        # Of 18 n-grams each: 5 + 3 + 1 + 0 are shared
        ("gleu", "the cat sat on a mat", "the cat sat by a mat", 9 / 18),
        ("rouge_1", "police killed the gunman", "Police kill the gunman", 3 / 4),
        ("rouge_2", "police killed the gunman", "Police kill the gunman", 1 / 3),
        ("rouge_l", "the gunman kill police", "police kill the gunman", 2 / 4),
        ("rouge_5", "a b c d e f", "a b c d e", 2 / 3),
        ("rouge_3", "a", "a", 0.0),
    ],
)  # fmt: skip
def test_similarity(metric: str, text: str, reference: str, score: float) -> None:
    one = {"type": "text_similarity", "input": text, "reference": reference, "evaluation_metric": metric}
    assert grade(one).reward == pytest.approx(score)


@given(st.text("ab c.", max_size=30), st.text("ab c.", max_size=30), st.sampled_from(sorted(METRICS)))
def test_every_measure_lies_between_0_and_1_and_is_1_for_a_long_text_itself(one: str, other: str, metric: str) -> None:
    assert 0 <= METRICS[metric](one, other) <= 1 + 1e-9
    assert METRICS[metric](one + " a b a c b", one + " a b a c b") == pytest.approx(1)


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_common_subsequence_is_that_of_the_table(one: str, other: str) -> None:
    row = [0] * (len(one) + 1)
    for b in other:
        before = list(row)
        for i, a in enumerate(one, 1):
            row[i] = before[i - 1] + 1 if a == b else max(before[i], row[i - 1])
    assert common_subsequence(one, other) == row[-1]


def test_variables() -> None:
    item = {"city": "Oslo", "tags": ["a", {"b": 2}], "n": 1.5}
    assert grade(check("eq", "{{ sample.output_text }}!", "{{item.city}}!"), item=item).reward == 1
    assert grade(check("eq", "{{ item.tags[1].b }}{{ item.tags.0 }}", "2a"), item=item).reward == 1
    sample = '{"city": {"name": "Oslo"}}'
    assert grade(check("eq", "{{ sample.output_json.city.name }}", "{{ item.city }}"), sample, item).reward == 1
    for text, answer, flag in (
        ("{{ item.nothing }}", "", "invalid_variable_error"),
        ("{{ item.tags[7] }}", "", "invalid_variable_error"),
        ("{{ item.tags.99999999999999999999 }}", "", "invalid_variable_error"),
        ("{{ sample.output_json.x }}", "no JSON", "sample_parse_error"),
        ("{{ sample.output_json.x }}", "{}", "invalid_variable_error"),
    ):
        wrong = grade(check("ne", text, "x"), answer, item)
        assert (wrong.reward, wrong.errors) == (0.0, {flag})


def test_multi() -> None:
    parts = {"a": check("eq", "{{ sample.output_text }}", "Oslo"), "b": check("eq", "x", "y")}

    def made(formula: str) -> graders.Grade:
        return grade({"type": "multi", "graders": parts, "calculate_output": formula})

    grade_ = made("0.75 * a + 0.25 * b")
    assert (grade_.reward, grade_.sub_rewards, grade_.errors) == (0.75, {"a": 1.0, "b": 0.0}, set())
    assert made("a + ").errors == {"formula_parse_error"}
    assert made("a + c").errors == {"formula_parse_error"}
    assert made("a / b").errors == {"other_error"}
    assert made("log(b)").errors == {"other_error"}
    alone = grade({"type": "multi", "graders": check("eq", "x", "x"), "calculate_output": "c * 2"})
    assert (alone.reward, alone.sub_rewards) == (2.0, {"c": 1.0})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 ^ 3 * 2", 17),
        ("-a ^ 2", -4),
        ("min(a, 3, 1.5) + max(a)", 3.5),
        ("floor(2.7) + ceil(2.1) - abs(-1)", 4),
        ("sqrt(16) + log(exp(2))", 6),
    ],
)
def test_formulas(text: str, value: float) -> None:
    assert Formula(text).evaluate({"a": 2.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["", "__import__('os')", "a.b", "a[0]", "'a' * 9", "True", "a if a else a", "lambda: 1", "min()", "sqrt(1, 2)",
     "min(*a)", "a; a", "(" * 900, "-" * 900 + "1", "1+" * 400 + "1", "1" * 1001, "a := 1", "f(1)", "min(1, key=a)"],
)  # fmt: skip
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(FormulaError):
        Formula(text)


def test_no_formula_and_no_text_costs_much() -> None:
    begun = time.process_time()
    for text in ("9^9^9^9^9^9", "exp(exp(exp(9)))", "1" * 999):
        with pytest.raises((ArithmeticError, ValueError)):
            Formula(text).evaluate({})
    braces = check("eq", "{{" * 200_000, "{{ item." * 50_000)
    assert grade(braces).reward == 0
    one = {"type": "text_similarity", "evaluation_metric": "fuzzy_match", "input": "ab" * 10_000}
    assert grade({**one, "reference": "ba" * 10_000}).reward > 0.9
    assert grade({**one, "reference": "ba" * 10_001}).errors == {"other_error"}
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    ("grader", "code", "param"),
    [
        ({"type": "python", "source": "1"}, "unsupported_grader", "grader.type"),
        ({"type": "score_model"}, "unsupported_grader", "grader.type"),
        ({"type": "king"}, "invalid_grader", "grader.type"),
        ({}, "invalid_grader", "grader"),
        ({"type": "string_check", "input": "", "reference": ""}, "invalid_grader", "grader.operation"),
        ({"type": "string_check", "x": 1, **check("eq", "", "")}, "invalid_grader", "grader.x"),
        ({"type": "text_similarity", "input": "", "reference": "", "evaluation_metric": "cosine"}, "unsupported_grader", "grader.evaluation_metric"),  # noqa: E501
        ({"type": "text_similarity", "input": "", "reference": "", "evaluation_metric": "meteor"}, "unsupported_grader", "grader.evaluation_metric"),  # noqa: E501
        (check("eq", "{{ user.name }}", ""), "invalid_grader", "grader"),
        ({"type": "multi", "graders": {}, "calculate_output": "1"}, "invalid_grader", "grader.graders"),
        ({"type": "multi", "graders": {"a": {"type": "python"}}, "calculate_output": "a"}, "unsupported_grader", "grader.graders.a.type"),  # noqa: E501
        ({"type": "multi", "graders": {"a": {"type": "multi"}}, "calculate_output": "a"}, "invalid_grader", "grader.graders.a.type"),  # noqa: E501
        ({"type": "multi", "graders": {"a": check("eq", "", "")}, "calculate_output": "a + z"}, "invalid_grader", "grader.calculate_output"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_no_grader_of_ours(grader: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(AttuneError) as refused:
        graders.check(graders.read_grader({"name": "g", **grader}))
    assert (refused.value.code, refused.value.param) == (code, param)
