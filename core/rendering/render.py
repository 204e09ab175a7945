"""One renderer for preview, plan, trainer and server: an example to token ids and a mask of supervised tokens.

What is supervised is what generation has to produce: the tokens that follow the served prompt, to the end-of-turn
token and with it. So the ids before every supervised turn equal the ids of the prompt as it is served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from core.data.conversation import Completion, Conversation, Example, Message, PreferencePair, Text, ToolCall
from core.data.example_reader import read_messages
from core.data.jsonl import Json
from core.errors import AttuneError, InvalidExample, TemplateRefused
from core.rendering.chat_template import Template, TextRenderer
from core.rendering.control_text import ControlText
from core.rendering.template_folder import freeze, load_tokenizer
from core.rendering.template_probe import probe_turn, shows_arguments
from core.rendering.tool_form import ToolForm, learn
from core.rendering.turns import Rendered, Turn, TurnMasks

__all__ = ["Rendered", "Renderer", "Template"]


class Renderer:
    """A tokenizer with its frozen template. Thread-safe."""

    def __init__(self, tokenizer_json: bytes, template: Template, *, tokenizer: Tokenizer | None = None) -> None:
        """`tokenizer` spares a second parse of `tokenizer_json` where it stands already.

        Raises `AttuneError` (tokenizer_mismatch) when the tokenizer is not the one the template was frozen with.
        """
        if hashlib.sha256(tokenizer_json).hexdigest() != template.tokenizer_sha256:
            raise AttuneError(
                "tokenizer.json is not the one that the template was frozen with", code="tokenizer_mismatch"
            )
        self.tokenizer_json = tokenizer_json
        self.template = template
        self._tokenizer = tokenizer or load_tokenizer(tokenizer_json, template.special_tokens)
        self._text = TextRenderer(template)
        self._stop_ids = frozenset(template.stop_ids)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(number for number, token in added.items() if token.special)
        self._stop_texts = tuple(self._texts(self._stop_ids))
        self._turns = TurnMasks(self._tokenizer, self._special_ids, self._stop_ids)
        self._control = ControlText([*self._texts(self._special_ids), *self._stop_texts])

    @staticmethod
    def from_folder(folder: Path, date: str) -> Renderer:
        """The renderer of a base model's folder, with its template frozen at `date` (YYYY-MM-DD)."""
        frozen = freeze(folder, date)
        return Renderer(frozen.tokenizer_json, frozen.template, tokenizer=frozen.tokenizer)

    @property
    def vocab_size(self) -> int:
        """Tokens the tokenizer knows, added ones included; a base's embedding may have more rows."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def tokenizer_text(self) -> str:
        """The tokenizer as it is used here, with the special tokens that its file leaves to the configuration."""
        return self._tokenizer.to_str()

    @cached_property
    def eos_id(self) -> int:
        """The token that ends a text. Raises `TemplateRefused` when there is none."""
        eos = self._tokenizer.token_to_id(self.template.eos_token or "")
        if eos is not None:
            return eos
        if not self.template.stop_ids:
            raise TemplateRefused("the base model names no end-of-sequence token, so an answer could not end")
        return self.template.stop_ids[0]

    @property
    def bos_id(self) -> int | None:
        """The token that may stand before everything; None where there is none."""
        return self._tokenizer.token_to_id(self.template.bos_token or "")

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; with `special`, behind a BOS where this tokenizer takes one before raw text."""
        ids = self._encode(text)
        return [*self._bos, *ids] if special else ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, special ones too; joined, what the model reads. A character that several tokens
        make up is in the last of them."""
        stream = DecodeStream(skip_special_tokens=False)
        texts = [stream.step(self._tokenizer, number) or "" for number in ids]
        whole, told = self.decode(ids, skip_special=False), "".join(texts)
        if texts and whole.startswith(told):
            texts[-1] += whole[len(told) :]  # a character that is not complete
        return texts

    @property
    def control_texts(self) -> tuple[str, ...]:
        """The texts that this tokenizer reads as control tokens; no example may hold one."""
        return self._control.texts

    def render_prompt(
        self, messages: list[dict[str, Json]], tools: list[dict[str, Json]] | None = None, *, opening: str = ""
    ) -> list[int]:
        """The ids that the server feeds before it generates the assistant's next turn; `opening`, text of the
        template's own, is how that turn has to begin.

        Raises `AttuneError` that names the field of a message that cannot be rendered.
        """
        conversation = read_messages([*messages], [*tools] if tools else None)
        try:
            self._control.refuse_in(conversation)
            text = self._text.render(self._messages(conversation), conversation.tools, prompt=True)
        except InvalidExample as error:
            raise AttuneError(error.message, code=error.code, param=error.field or "messages") from error
        return self._encode(text + opening)

    def render_text_prompt(self, prompt: str) -> list[int]:
        """The ids of a plain prompt, as training puts them before a completion.

        Raises `AttuneError` (special_token_in_text) that names the field, and for a prompt of no token.
        """
        try:
            self._control.refuse_in(Completion(prompt, ""))
        except InvalidExample as error:
            raise AttuneError(error.message, code=error.code, param="prompt") from error
        ids = self.encode(prompt, special=True)
        if not ids:
            raise AttuneError("prompt is empty; give some text to go on from", code="invalid_value", param="prompt")
        return ids

    def render_example(self, example: Example, line: int | None = None) -> list[Rendered]:
        """The sequences of an example: one, or one for each supervised turn where a template rewrites its past.

        Of a preference pair two: the prompt with the preferred answer, and with the other.

        Raises `InvalidExample` (special_token_in_text, template_refuses_example, tool_calls_not_shown), which names
        `line` where it is given, and `TemplateRefused` when this base's template does not show which tokens are
        the answer.
        """
        try:
            return self._render(example)
        except InvalidExample as error:
            if line is None:
                raise
            message, code = f"line {line}: {error.message}", error.code or "invalid_example"
            raise InvalidExample(message, code=code, line=line, field=error.field) from error

    def _render(self, example: Example) -> list[Rendered]:
        self._control.refuse_in(example)
        if isinstance(example, Conversation):
            return self._render_conversation(example)
        if isinstance(example, Completion):
            return [self._render_completion(example)]
        if isinstance(example, PreferencePair):
            return self._render_pair(example)
        return [self._render_text(example)]

    def _render_pair(self, pair: PreferencePair) -> list[Rendered]:
        try:
            return [rendered for answered in pair.answered() for rendered in self._render_conversation(answered)]
        except InvalidExample as error:
            # Its field is that of the answered conversation, which is not how the line reads
            raise InvalidExample(error.message, code=error.code or "invalid_example") from error

    def _render_text(self, example: Text) -> Rendered:
        ids = [*self.encode(example.text, special=True), self.eos_id]
        return Rendered(ids, [False] + [True] * (len(ids) - 1))

    def _render_completion(self, example: Completion) -> Rendered:
        prompt = self._encode(example.prompt)
        whole = self._encode(example.prompt + example.completion)
        if whole[: len(prompt)] != prompt:
            whole = prompt + self._continuation(example.completion)
        ids = [*self._bos, *whole, self.eos_id]
        answer = max(1, len(self._bos) + len(prompt))
        return Rendered(ids, [False] * answer + [True] * (len(ids) - answer))

    def _render_conversation(self, example: Conversation) -> list[Rendered]:
        messages = self._messages(example)
        supervised = [i for i, m in enumerate(example.messages) if m.role == "assistant" and m.weight]
        if not self._opens_turn:
            raise TemplateRefused(
                "the chat template has no generation prompt, so it does not show where an answer begins"
            )
        whole = self._text.render(messages, example.tools, prompt=False)
        turns: list[Turn] = []
        for index in supervised:
            last = index == len(messages) - 1
            text = whole if last else self._text.render(messages[: index + 1], example.tools, prompt=False)
            prompt = self._text.render(messages[:index], example.tools, prompt=True)
            turns.append(self._turn(prompt, text))
        rendered = self._turns.render(whole, turns)
        if rendered is not None:
            return [rendered]
        return [self._turns.render(turn.prompt + turn.answer, [turn]) or self._render_apart(turn) for turn in turns]

    def _turn(self, prompt: str, text: str) -> Turn:
        answer = self._answer(prompt, text)
        # An answer holds no stop token's text (it was refused), so the first one ends the turn
        stops = [(at, stop) for stop in self._stop_texts if (at := answer.find(stop)) >= 0]
        if not stops:
            raise TemplateRefused(
                "the chat template ends an assistant's turn with no stop token, so a tuned model would never stop"
            )
        at, stop = min(stops)
        return Turn(prompt, answer, at, at + len(stop))

    def _answer(self, prompt: str, text: str) -> str:
        """What `text` says after what `prompt` ends in."""
        if text.startswith(prompt):
            return text[len(prompt) :]
        # Some templates write the past otherwise once it is answered (Mistral's drops a system message). The end
        # of the prompt still shows where the answer begins: no message can contain the special token in it.
        opening = prompt[max((prompt.rfind(control) for control in self._control.texts), default=0) :]
        at = text.rfind(opening)
        if at < 0 or not opening.startswith(self._control.texts):
            raise TemplateRefused(
                "the chat template opens the assistant's turn otherwise when generating than when showing an answer, "
                "so an answer cannot be trained as it would be generated"
            )
        return text[at + len(opening) :]

    def _render_apart(self, turn: Turn) -> Rendered:
        """A token would straddle the boundary: encode both sides separately, as generation sees them."""
        prompt = self._encode(turn.prompt)
        ids = prompt + self._continuation(turn.answer)
        stop = self._turns.first_stop(ids, len(prompt))
        return self._turns.supervise(ids, [(len(prompt), stop + 1)])

    def _continuation(self, text: str) -> list[int]:
        """Ids of a text that follows another: without the space that some tokenizers put before a beginning."""
        for lead in self._leads:
            head = self._encode(lead)
            ids = self._encode(lead + text)
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._encode(text)

    @cached_property
    def _leads(self) -> list[str]:
        """What to put before a text so that its first token is that of the middle of a text."""
        letter = self._tokenizer.token_to_id("a")
        leads = ("", "\n", "|", "0", "Q")  # several: one of them may grow into a token with the text
        return [lead for lead in leads if self._encode(lead + "a") == [*self._encode(lead), letter]]

    @cached_property
    def _bos(self) -> list[int]:
        bos = self._tokenizer.token_to_id(self.template.bos_token or "")
        return [bos] if self.template.adds_bos and bos is not None else []

    @cached_property
    def _arguments_form(self) -> Literal["object", "text"] | None:
        """How the template wants a tool call's arguments; None when it shows no tool calls."""
        if shows_arguments(self._text, as_text=False):
            return "object"
        return "text" if shows_arguments(self._text, as_text=True) else None

    @cached_property
    def tool_form(self) -> ToolForm | None:
        """How this base writes tool calls; None where it cannot be offered functions."""
        if self._arguments_form is None:
            return None
        return learn(
            self._text,
            arguments_as_text=self._arguments_form == "text",
            stops=self._stop_texts,
            shown=lambda text: self.decode(self.encode(text)),
        )

    @cached_property
    def _opens_turn(self) -> bool:
        probe = probe_turn(self._text)
        return probe is None or probe.opens_turn

    def _encode(self, text: str) -> list[int]:
        return self._turns.encode(text)

    def _texts(self, ids: frozenset[int]) -> list[str]:
        texts = (self._tokenizer.id_to_token(number) for number in sorted(ids))
        return [text for text in texts if text]

    def _messages(self, conversation: Conversation) -> list[dict[str, Json]]:
        """Messages as templates take them. Keys without a value are left out, as transformers does."""
        return [self._message(message, index) for index, message in enumerate(conversation.messages)]

    def _message(self, message: Message, index: int) -> dict[str, Json]:
        made: dict[str, Json] = {"role": message.role}
        if message.role == "developer" and "developer" not in (self.template.chat_template or ""):
            made["role"] = "system"
        if message.content is not None:
            made["content"] = message.content
        if message.reasoning_content is not None:
            made["reasoning_content"] = made["thinking"] = message.reasoning_content
        if message.name is not None:
            made["name"] = message.name
        if message.tool_call_id is not None:
            made["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            if self._arguments_form is None:
                raise InvalidExample(
                    "this base model's chat template shows no tool calls; choose another base or remove them",
                    code="tool_calls_not_shown",
                    field=f"messages[{index}].tool_calls",
                )
            made["tool_calls"] = [self._tool_call(call) for call in message.tool_calls]
        return made

    def _tool_call(self, call: ToolCall) -> dict[str, Json]:
        arguments: Json = call.arguments if self._arguments_form == "text" else json.loads(call.arguments)
        made: dict[str, Json] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        if call.id is not None:
            made["id"] = call.id
        return made
