"""Chat templates as bases bring them: refused, sandboxed, chosen, and where their stops come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.examples import Text
from core.errors import AttuneError, TemplateRefused
from tests.core.rendered import TOOL, chat, made

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        (TURNS.replace("<|im_end|>", "") + "{{ '<|im_start|>assistant\n' if add_generation_prompt }}", "no stop token"),
        (TURNS, "no generation prompt"),
        (TURNS + "{{ 'Answer:' if add_generation_prompt }}", "otherwise when generating"),
    ],
)
def test_templates_that_do_not_show_the_answer_are_refused(tmp_path: Path, template: str | None, reason: str) -> None:
    renderer = made(tmp_path, template)
    with pytest.raises(TemplateRefused, match=reason):
        renderer.render_example(chat("Hi", "Hello"))
    assert renderer.render_example(Text("Raw text still works."))


def test_a_broken_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateRefused, match="does not compile"):
        made(tmp_path, "{% for m in messages %}")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{{ dict.mro() }}",
        "{{ '%s' | format(messages) }}{{ raise_exception('stop') }}",
        "{% for i in range(10000000) %}x{% endfor %}",
    ],
)
def test_templates_run_in_a_sandbox(tmp_path: Path, attack: str) -> None:
    renderer = made(tmp_path, attack + "<|im_end|>")
    with pytest.raises(AttuneError) as caught:
        renderer.render_prompt([{"role": "user", "content": "Hi"}])
    assert caught.value.code == "template_refuses_example"


def test_a_tool_template_is_used_for_tools(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": TURNS + "<|im_start|>assistant\n"},
        {"name": "tool_use", "template": "{{ tools | tojson }}" + TURNS + "<|im_start|>assistant\n"},
    ]
    renderer = made(tmp_path, None, chat_template=named)
    question = [{"role": "user", "content": "Hi"}]
    assert "Übersee" in renderer.decode(renderer.render_prompt(question, [TOOL]))
    assert "look_up" not in renderer.decode(renderer.render_prompt(question))


def test_files_win_over_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("from the file{{ eos_token }}")
    renderer = made(tmp_path, "from the configuration")
    assert renderer.decode(renderer.render_prompt([{"role": "user", "content": "Hi"}])) == "from the file"


def test_stops_are_all_that_any_file_names(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    template = "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}"
    assert made(tmp_path, template).template.stop_ids == (0, 1, 2)
