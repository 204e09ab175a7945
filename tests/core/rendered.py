"""Every family of bases as our renderer and as transformers read it, and what must hold of any rendering."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core.data.examples import Conversation, Message
from core.rendering.render import Rendered, Renderer
from tests.core.chat_families import CHATML, Family, byte_level, families

TODAY = datetime.date.today().isoformat()
FAMILIES = {family.name: family for family in families()}


class Base:
    """One family as our renderer and as transformers read it."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family = family
        self.folder = family.write(folder)
        self.renderer = Renderer.from_folder(self.folder, TODAY)
        self.reference: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self.folder)

    def reference_ids(self, messages: list[dict], *, prompt: bool, tools: list[dict] | None = None) -> list[int]:
        ids = self.reference.apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False
        )
        if prompt and self.family.name == "deepseek-r1":
            text = self.reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = self.reference(text.removesuffix("<think>\n"), add_special_tokens=False)["input_ids"]
        return ids

    def show(self, ids: list[int]) -> str:
        return self.renderer.decode(ids, skip_special=False)

    def supervised(self, rendered: Rendered) -> list[str]:
        """The supervised runs as text."""
        return [self.show(rendered.token_ids[a:b]).lstrip(" ") for a, b in spans(rendered)]


def spans(rendered: Rendered) -> Iterator[tuple[int, int]]:
    start = None
    for index, on in enumerate([*rendered.mask, False]):
        if on and start is None:
            start = index
        elif not on and start is not None:
            yield start, index
            start = None


def plain(message: Message) -> dict:
    made = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def chat(*turns: str, system: str | None = None, weights: tuple[int, ...] = ()) -> Conversation:
    """User and assistant in turn."""
    messages = [Message("system", system)] if system is not None else []
    for index, text in enumerate(turns):
        weight = weights[index // 2] if index % 2 and weights else 1
        messages.append(Message("assistant" if index % 2 else "user", text, weight))
    return Conversation(tuple(messages))


def check(base: Base, example: Conversation) -> list[Rendered]:
    """What must hold for every conversation: same ids as transformers, served prompts before every answer, an end
    token behind it."""
    rendered = base.renderer.render_example(example)
    messages = [plain(message) for message in example.messages]
    answers = [i for i, m in enumerate(example.messages) if m.role == "assistant" and m.weight]
    tools = list(example.tools) or None
    found = [(sequence, span) for sequence in rendered for span in spans(sequence)]
    assert len(found) == len(answers)
    for index, (sequence, (start, end)) in zip(answers, found, strict=True):
        served = base.renderer.render_prompt(messages[:index], tools)
        assert served == base.reference_ids(messages[:index], prompt=True, tools=tools)
        assert sequence.token_ids[:start] == served
        assert sequence.token_ids[end - 1] in base.renderer.template.stop_ids
        assert not set(sequence.token_ids[start : end - 1]) & set(base.renderer.template.stop_ids)
        answer = base.renderer.decode(sequence.token_ids[start:end])
        content = (example.messages[index].content or "").strip()
        assert normalize("NFD", content) in normalize("NFD", answer)
    for sequence in rendered:
        assert len(sequence.mask) == len(sequence.token_ids)
        assert not sequence.mask[0]
        bos = base.reference.bos_token_id
        if bos is not None and base.family.name not in ("zephyr", "phi3", "smollm2", "llama2"):
            assert sequence.token_ids.count(bos) == 1
            assert sequence.token_ids[0] == bos
    counts = (len(messages), answers[0] + 1)
    wholes = [base.reference_ids(messages[:count], prompt=False, tools=tools) for count in counts]
    if base.family.name != "mistral" or example.messages[0].role != "system":  # its template drops a system message
        assert base.show(rendered[0].token_ids) in [base.show(whole) for whole in wholes]
    return rendered


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Ort in Übersee"}}},
    },
}


def made(folder: Path, template: str | None, **config: object) -> Renderer:
    byte_level(CHATML).save(str(folder / "tokenizer.json"))
    values = {"eos_token": "<|endoftext|>", **({} if template is None else {"chat_template": template}), **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return Renderer.from_folder(folder, TODAY)
