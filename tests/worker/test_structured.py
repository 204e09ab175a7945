"""Answers held to a schema: any tokens that the model may take make a valid document, on every kind of tokenizer."""

from __future__ import annotations

import json
import random

import jsonschema
import openai
import pytest
import torch
from openai import OpenAI
from pydantic import BaseModel

from core.errors import AttuneError
from tests.core.chat_families import Family, families
from tests.worker.serving import ASK, QUESTION, TUNED, schema
from worker.engine.constrain import Vocabulary, json_grammar

ORDER = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["blue", "grün"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "express": {"type": "boolean"},
        "lines": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["colour", "count", "express", "lines"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("family", [family for family in families() if family.name in ("qwen2.5", "llama2", "mistral")])
def test_chance_within_the_mask_makes_a_valid_document(family: Family) -> None:
    stop = family.tokenizer.token_to_id(family.special["eos_token"])
    rows = family.tokenizer.get_vocab_size() + 7  # a base's matrix is often larger than its vocabulary
    constraint = Vocabulary(family.tokenizer.to_str(), [stop]).compile(json_grammar(ORDER, "response_format"))
    rng = random.Random(1)
    for _ in range(5):
        one, ids = constraint.copy(), []
        while not ids or ids[-1] != stop:
            allowed = one.apply(torch.zeros(rows)).isfinite().nonzero().flatten().tolist()
            ids.append(stop if stop in allowed else rng.choice(allowed))
            one.take(ids[-1])
            assert len(ids) < 400
        jsonschema.validate(json.loads(family.tokenizer.decode(ids)), ORDER)


def test_a_schema_cannot_cost_much() -> None:
    family = families()[0]
    vocabulary = Vocabulary(family.tokenizer.to_str(), [2])
    wide = {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(8)]} for i in range(8)]}
    deep: dict[str, object] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"x": deep}}
    for costly in (wide, deep, {"type": "string", "pattern": "("}):
        with pytest.raises(AttuneError) as refused:
            vocabulary.compile(json_grammar(costly, "response_format"))
        assert (refused.value.code, refused.value.param) == ("invalid_json_schema", "response_format")


@pytest.mark.parametrize("model", ["tiny", TUNED])
def test_the_answer_is_of_the_schema(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, response_format=schema(ORDER), n=3, seed=4, max_tokens=300, temperature=1.0
    )  # type: ignore[call-overload]
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), ORDER)


def test_a_json_object_is_an_object_of_any_keys(client: OpenAI) -> None:
    bias = {"2": 100}  # the end, wherever it may come: an untrained model would go on
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, response_format={"type": "json_object"}, logit_bias=bias, seed=1, max_tokens=300
    )  # type: ignore[call-overload]
    text = answer.choices[0].message.content
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_parse_and_its_stream_give_the_clients_own_type(client: OpenAI) -> None:
    class Small(BaseModel):
        ok: bool

    options = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 200, "seed": 2}
    parsed = client.chat.completions.parse(response_format=Small, **options)  # type: ignore[arg-type]
    assert isinstance(parsed.choices[0].message.parsed, Small)
    with client.chat.completions.stream(response_format=Small, **options) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed


def test_what_cannot_be_enforced_is_passed_over_only_where_it_is_not_strict(client: OpenAI) -> None:
    odd = {"type": "object", "properties": {"a": {"enum": [1], "not": {"const": 2}}}, "required": ["a"]}
    odd["additionalProperties"] = False
    options = {"model": "tiny", "messages": ASK, "max_tokens": 200}
    with pytest.raises(openai.BadRequestError, match="not"):
        client.chat.completions.create(response_format=schema(odd), **options)  # type: ignore[call-overload]
    loose = client.chat.completions.create(response_format=schema(odd, strict=False), **options)  # type: ignore[call-overload]
    assert json.loads(loose.choices[0].message.content) == {"a": 1}
