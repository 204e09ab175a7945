"""What is learnt of a template's tool calls is what the template writes."""

from __future__ import annotations

import pytest

from core.rendering.chat_template import Template, TextRenderer
from core.rendering.tool_form import ToolForm, learn

SHOWN = "{{ tools | tojson }}"
TURNS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}CALLS{% else %}{{ m.content }}{% endif %}"
    "<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
HERMES = (
    "{% for c in m.tool_calls %}<tool_call>\n{{ {'name': c.function.name, 'arguments': c.function.arguments} "
    "| tojson }}\n</tool_call>{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
LIST = (
    "[TOOL_CALLS] [{% for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments, "
    "'id': c.id} | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]"
)
ONE = (
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}{% set c = m.tool_calls[0] %}"
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
)


def learnt(template: str) -> ToolForm | None:
    text = TextRenderer(Template(template, {}, (2,), "2026-01-01", "x"))
    # [TOOL_CALLS] is a special token there, and is not shown
    return learn(text, arguments_as_text=False, stops=["<end>"], shown=lambda t: t.replace("[TOOL_CALLS] ", ""))


@pytest.mark.parametrize(
    ("calls", "opens", "closes", "in_list", "arguments", "id_key", "between", "forced"),
    [
        (HERMES, "<tool_call>", "\n</tool_call>", False, "arguments", None, "\n</tool_call>\n<tool_call>\n", "<tool_call>\n"),  # noqa: E501
        ("<think>\n\n</think>\n\n" + HERMES, "<tool_call>", "\n</tool_call>", False, "arguments", None, "\n</tool_call>\n<tool_call>\n", "<think>\n\n</think>\n\n<tool_call>\n"),  # noqa: E501
        (LIST, "", "", True, "arguments", "id", ", ", "[TOOL_CALLS] "),
        (ONE, "", "", False, "parameters", None, None, ""),
    ],
)  # fmt: skip
def test_the_form_of_a_call(
    calls: str, opens: str, closes: str, in_list: bool, arguments: str, id_key: str | None, between: str, forced: str
) -> None:
    form = learnt(SHOWN + TURNS.replace("CALLS", calls))
    assert form is not None
    assert (form.opens, form.closes, form.in_list, form.forced) == (opens, closes, in_list, forced)
    assert (form.name_key, form.arguments_key, form.id_key, form.between) == ("name", arguments, id_key, between)


def test_no_form_without_functions_shown_or_without_json() -> None:
    assert learnt(TURNS.replace("CALLS", HERMES)) is None
    assert learnt(SHOWN + TURNS.replace("CALLS", "call {{ m.tool_calls[0].function.name }}")) is None
