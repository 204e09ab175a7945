"""Holds answers to tool calls as a template writes them: functions that exist, with arguments of their schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from core.data.jsonl import Json
from core.rendering.tool_form import ToolForm
from worker.engine.constrain import Grammar, check_length, compile_options

_PARAM = "tools"
_WHITE_SPACE = r"[ \n]{1,4}"  # templates write calls on one line


def tool_grammar(
    form: ToolForm,
    functions: Mapping[str, tuple[dict[str, Json], bool]],  # name to (schema of its arguments, strict)
    *,
    calls: Literal["any", "one", "some"],
) -> Grammar:
    """`any`: text in which calls may stand. `one` and `some`: the answer is a call, or several, and begins where
    `form.forced` ends. Raises AttuneError for schemas that are too long.
    """
    check_length(json.dumps([schema for schema, _ in functions.values()]), _PARAM)
    rules = [rule for index, name in enumerate(functions) for rule in _call(form, index, name, *functions[name])]
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(functions))))
    rules.append(f"WS: /{_WHITE_SPACE}/")
    closes = [_literal(form.closes)] if form.closes else []
    body = ["call", *closes]
    if form.in_list:
        more = '(WS? "," WS? call)*' if calls != "one" else ""
        body = ['"["', "WS?", "call", more, "WS?", '"]"', *closes]
    elif calls == "some" and form.between is not None:
        body = ["call", f"({_literal(form.between)} call)*", *closes]
    if calls == "any":
        start = [
            "start: (opening WS? calls)* TEXT",
            f"opening[lazy]: TEXT {_literal(form.opens)}",
            r"TEXT: /(.|\n)*/",
        ]
    else:
        start = ["start: calls"]
    return Grammar("\n".join([*start, "calls: " + " ".join(part for part in body if part), *rules]), _PARAM)


def _call(form: ToolForm, index: int, name: str, schema: dict[str, Json], strict: bool) -> list[str]:
    """The rules of a call to one function, its keys in the template's order."""
    values = {form.name_key: _literal(json.dumps(name)), form.arguments_key: f"arguments_{index}"}
    if form.id_key is not None:
        values[form.id_key] = '/"[a-zA-Z0-9]{9}"/'
    pairs = [f'{_literal(json.dumps(key))} WS? ":" WS? {values[key]}' for key in form.keys if key in values]
    options = {**compile_options(lenient=not strict), "whitespace_pattern": _WHITE_SPACE}
    guided = json.dumps({**schema, "x-guidance": options})
    return [
        f'call_{index}: "{{" WS? ' + ' WS? "," WS? '.join(pairs) + ' WS? "}"',
        f"arguments_{index}: %json {guided}",
    ]


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
