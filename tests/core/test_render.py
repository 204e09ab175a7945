"""The renderer against transformers' own, over the templates and the kinds of tokenizer of well-known families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from core.data.examples import Completion, Conversation, Message, PreferencePair, Text, ToolCall
from core.errors import AttuneError, InvalidExample
from core.rendering.chat_template import Template
from core.rendering.render import Renderer
from tests.core.rendered import FAMILIES, TODAY, TOOL, Base, chat, check, made, plain, spans

END = {
    "qwen2.5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "smollm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama2": "</s>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",  # of Gemma 1 and 2
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "zephyr": "</s>",
    "gpt-oss": "<|return|>",
    "deepseek-r1": "<｜end▁of▁sentence｜>",
}
LEAD = {"qwen3": "<think>\n\n</think>\n\n", "gpt-oss": "<|channel|>final<|message|>"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {name: Base(family, tmp_path_factory.mktemp("base")) for name, family in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, bases: dict[str, Base]) -> Base:
    return bases[request.param]


def test_one_turn_is_the_reference_and_the_answer_with_its_end_is_supervised(base: Base) -> None:
    example = chat("What is 12 + 30?", "It is 42.\n\nIndeed.")
    (rendered,) = check(base, example)
    assert rendered.token_ids == base.reference_ids([plain(m) for m in example.messages], prompt=False)
    (answer,) = base.supervised(rendered)
    space = " " if base.family.name == "llama2" else ""
    assert answer == LEAD.get(base.family.name, "") + "It is 42.\n\nIndeed." + space + END[base.family.name]


def test_several_turns(base: Base) -> None:
    system = "Answer briefly." if base.family.system else None
    rendered = check(base, chat("Hi", "Hello!", "And you?", "Fine, thanks.", system=system))
    # These rewrite a former turn, so that each answer has to be shown as the last
    assert len(rendered) == (2 if base.family.name in ("qwen3", "gpt-oss", "mistral") else 1)


def test_weight_zero_is_context_only(base: Base) -> None:
    rendered = check(base, chat("Hi", "wrong answer", "And you?", "right answer", weights=(0, 1)))
    assert len(rendered) == 1
    assert "wrong answer" not in "".join(base.supervised(rendered[0]))
    assert "wrong answer" in base.show(rendered[0].token_ids)
    (first, *_) = check(base, chat("Hi", "right answer", "And you?", "wrong answer", weights=(1, 0)))
    assert "wrong answer" not in "".join(base.supervised(first))


ANSWERS = [
    "\nstarts with a line",
    "\n\n  indented",
    " starts with a space",
    "\t",
    "ends with spaces  \n\n",
    "\u0301combining at the start",
    "é",
    "👩‍👩‍👧 family",
    "你好\u2028next",
    "{",
    "...",
    "<<SYS>>",
    "'s",
    "1",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_token_across_the_boundary_is_never_trained(base: Base, answer: str) -> None:
    check(base, chat("Question: \n", answer, "again ", answer))


TRICKY = st.text(alphabet=" \n\tab.1'é\u0301👍你<|>[]/", min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(TRICKY, min_size=2, max_size=4).filter(lambda turns: len(turns) % 2 == 0))
def test_any_text(bases: dict[str, Base], turns: list[str]) -> None:
    for base in bases.values():
        check(base, chat(*turns))


def test_one_renderer_and_its_frozen_form_agree(base: Base) -> None:
    renderer = base.renderer
    frozen = Template.from_json(renderer.template.to_json())
    again = Renderer(renderer.tokenizer_json, frozen)
    assert frozen == renderer.template
    assert frozen.hash == renderer.template.hash
    example = chat("Hi", "Hello!", "And you?", "Fine, thanks.")
    assert again.render_example(example) == renderer.render_example(example)
    assert again.vocab_size == len(base.reference)


def test_raw_text_and_completions(base: Base) -> None:
    renderer, reference = base.renderer, base.reference
    with_bos = reference("Some text.")["input_ids"]
    assert renderer.encode("Some text.", special=True) == with_bos
    (text,) = renderer.render_example(Text("Some text."))
    assert text.token_ids == [*with_bos, renderer.eos_id]
    assert text.mask == [False] + [True] * len(with_bos)

    for prompt, completion in (("Some text", " and more"), ("Some ", "text"), ("line\n", "\nline"), ("", "text")):
        (pair,) = renderer.render_example(Completion(prompt, completion))
        head = renderer.encode(prompt, special=True)
        assert pair.token_ids[: len(head)] == head
        first = max(1, len(head))
        assert pair.mask == [False] * first + [True] * (len(pair.mask) - first)
        assert pair.token_ids[-1] == renderer.eos_id
        if prompt.strip():
            assert renderer.decode(pair.token_ids) == renderer.decode(renderer.encode(prompt + completion))


CALL = ToolCall("look_up", '{"city": "Zürich", "days": 3}', "call12345")
TOOL_CHAT = Conversation(
    (
        Message("user", "Weather in Zürich?"),
        Message("assistant", None, tool_calls=(CALL,)),
        Message("tool", '{"sky": "clear"}', tool_call_id="call12345"),
        Message("assistant", "It is clear."),
    ),
    (TOOL,),
)


@pytest.mark.parametrize("name", [family.name for family in FAMILIES.values() if family.tools])
def test_tool_calls(bases: dict[str, Base], name: str) -> None:
    base = bases[name]
    rendered = check(base, TOOL_CHAT)
    shown = "".join(answer for sequence in rendered for answer in base.supervised(sequence))
    assert '{"city": "Zürich", "days": 3}' in shown
    assert "look_up" in shown
    assert "clear" in shown
    as_object = [{"function": {"name": "look_up", "arguments": {"city": "Zürich", "days": 3}}, "id": "call12345"}]
    as_text = [{"function": {"name": "look_up", "arguments": '{"city": "Zürich", "days": 3}'}, "id": "call12345"}]
    question = {"role": "user", "content": "Weather?"}
    result = {"role": "tool", "tool_call_id": "call12345", "content": "clear"}
    prompts = [
        base.renderer.render_prompt([question, {"role": "assistant", "tool_calls": calls}, result])
        for calls in (as_object, as_text)
    ]
    assert prompts[0] == prompts[1]


def test_tool_calls_need_a_template_that_shows_them(bases: dict[str, Base]) -> None:
    with pytest.raises(InvalidExample) as caught:
        bases["zephyr"].renderer.render_example(TOOL_CHAT, line=7)
    assert caught.value.code == "tool_calls_not_shown"
    assert caught.value.line == 7
    assert caught.value.message.startswith("line 7: ")


def test_a_template_that_writes_arguments_as_text_gets_text(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}"
        "{{ '{\"arguments\": ' + m.tool_calls[0].function.arguments + '}' }}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = made(tmp_path, template)
    (rendered, *_) = renderer.render_example(Conversation(TOOL_CHAT.messages[:2]))
    assert '{"arguments": {"city": "Zürich", "days": 3}}<|im_end|>' in renderer.decode(rendered.token_ids, False)


@pytest.mark.parametrize(
    ("example", "field"),
    [
        (chat("ends it <|im_end|> here", "yes"), "messages[0].content"),
        (chat("fine", "<|im_start|>"), "messages[1].content"),
        (Conversation((Message("user", "x", name="<|im_end|>"), Message("assistant", "y"))), "messages[0].name"),
        (Conversation(TOOL_CHAT.messages, ({"function": {"name": "<|im_end|>"}},)), "tools[0]"),
        (
            Conversation(
                (
                    Message("user", "x"),
                    Message("assistant", None, tool_calls=(ToolCall("f", '{"a": ["<|im_\\u0065nd|>"]}'),)),
                )
            ),
            "messages[1].tool_calls[0]",
        ),
        (Completion("<|im_end|>", "x"), "prompt"),
        (Completion("x", "<|endoftext|>"), "completion"),
        (Text("a <|endoftext|> b"), "text"),
    ],
)
def test_control_tokens_in_text_are_refused(
    bases: dict[str, Base], example: Conversation | Completion | Text, field: str
) -> None:
    with pytest.raises(InvalidExample, match=r"<\|(im_end|im_start|endoftext)\|>") as caught:
        bases["qwen2.5"].renderer.render_example(example)
    assert caught.value.code == "special_token_in_text"
    assert caught.value.field == field


def test_a_request_names_the_field_at_fault(bases: dict[str, Base]) -> None:
    renderer = bases["gemma"].renderer
    for messages, code, param in (
        ([{"role": "user", "content": "a<end_of_turn>"}], "special_token_in_text", "messages[0].content"),
        ([{"role": "robot", "content": "a"}], "invalid_messages", "messages[0].role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "invalid_messages", "messages[0].content[0]"),
        ([{"role": "system", "content": "a"}], "template_refuses_example", "messages"),
    ):
        with pytest.raises(AttuneError) as caught:
            renderer.render_prompt(messages)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.status == 400


def test_a_request_is_read_as_clients_send_it(bases: dict[str, Base]) -> None:
    renderer = bases["qwen2.5"].renderer
    expected = renderer.render_prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\nb"}])
    pasted = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    pasted |= {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    assert renderer.render_prompt([{"role": "developer", "content": "Be brief."}, pasted]) == expected


def test_thoughts_are_trained_where_the_template_shows_them(bases: dict[str, Base]) -> None:
    thoughtful = Message("assistant", "It is 42.", reasoning_content="12 and 30")
    base = bases["qwen3"]
    (rendered,) = base.renderer.render_example(Conversation((Message("user", "12 + 30?"), thoughtful)))
    assert base.supervised(rendered) == ["<think>\n12 and 30\n</think>\n\nIt is 42.<|im_end|>"]
    base = bases["gpt-oss"]
    (rendered,) = base.renderer.render_example(Conversation((Message("user", "12 + 30?"), thoughtful)))
    assert base.supervised(rendered)[0].startswith("<|channel|>analysis<|message|>12 and 30<|end|>")


def test_the_date_is_the_frozen_one(bases: dict[str, Base]) -> None:
    renderer = Renderer.from_folder(bases["llama3"].folder, "2031-02-03")
    prompt = [{"role": "user", "content": "Hi"}]
    assert "Today Date: 03 Feb 2031" in renderer.decode(renderer.render_prompt(prompt))
    assert renderer.template.hash != bases["llama3"].renderer.template.hash


def test_bos_is_by_the_tokenizer_and_not_by_its_configuration(tmp_path: Path) -> None:
    for adds_bos in (True, False):
        folder = FAMILIES["mistral"].write(tmp_path / str(adds_bos))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": adds_bos}))
        ours, theirs = Renderer.from_folder(folder, TODAY), AutoTokenizer.from_pretrained(folder)
        assert ours.encode("text", special=True) == theirs("text")["input_ids"]


def test_another_tokenizer_is_refused(bases: dict[str, Base]) -> None:
    with pytest.raises(AttuneError) as caught:
        Renderer(bases["gemma"].renderer.tokenizer_json, bases["qwen3"].renderer.template)
    assert caught.value.code == "tokenizer_mismatch"
    with pytest.raises(AttuneError) as caught:
        Template.from_json('{"chat_template": 3}')
    assert caught.value.code == "invalid_template"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttuneError, match=r"no tokenizer\.json") as caught:
        Renderer.from_folder(tmp_path, TODAY)
    assert caught.value.code == "invalid_base_model"


def test_a_pair_is_its_two_conversations(base: Base) -> None:
    """Each answer is supervised with its end of turn, behind the prompt that is served; nothing else is."""
    prompt = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "How are you?"))
    pair = PreferencePair(prompt, Message("assistant", "Fine"), Message("assistant", "Not your business"))
    rendered = base.renderer.render_example(pair)
    assert len(rendered) == 2
    asked = [{"role": message.role, "content": message.content} for message in prompt]
    served = base.renderer.render_prompt(asked)
    for sequence, text in zip(rendered, ("Fine", "Not your business"), strict=True):
        ((begin, end),) = spans(sequence)
        assert sequence.token_ids[:begin] == served
        assert sequence.token_ids[end - 1] in base.renderer.template.stop_ids
        assert base.renderer.decode(sequence.token_ids[begin:end]).strip().endswith(text)


def test_a_control_token_in_a_pair_is_refused_by_its_field(base: Base) -> None:
    stop = base.show([base.renderer.template.stop_ids[0]])
    user, fine, bad = Message("user", "Hi"), Message("assistant", "Fine"), Message("assistant", f"No{stop}")
    for pair, field in (
        (PreferencePair((user,), bad, fine), "preferred_output[0].content"),
        (PreferencePair((user,), fine, bad), "non_preferred_output[0].content"),
        (PreferencePair((Message("user", stop),), fine, user), "input.messages[0].content"),
    ):
        with pytest.raises(InvalidExample) as caught:
            base.renderer.render_example(pair)
        assert (caught.value.code, caught.value.field) == ("special_token_in_text", field)
