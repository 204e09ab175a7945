"""A base's chat template and the special tokens around it, frozen and hashed; and its text rendering.

The Jinja environment is configured as transformers does it, so that text equals `apply_chat_template`'s; only
`strftime_now` differs, which sees the frozen date and no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import cast

import msgspec
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from core.data.jsonl import Json
from core.errors import AttuneError, InvalidExample, TemplateRefused


@dataclass(frozen=True)
class Template:
    """What turns a conversation into text, with the tokens that end a turn. Frozen into every adapter."""

    chat_template: str | None  # None: the base has none, and takes prompt/completion and text only
    special_tokens: dict[str, str]  # name (bos_token, eos_token, …) to text, as the template sees them
    stop_ids: tuple[int, ...]  # sorted; any of them ends a generation
    date: str  # YYYY-MM-DD, what strftime_now sees
    tokenizer_sha256: str  # of tokenizer.json
    adds_bos: bool = False  # before raw text; a chat template writes its own
    tool_template: str | None = None  # for conversations with tools, where it is another one
    # Text that the generation prompt ends in although no rendered answer begins with it (a "<think>" that is
    # forced open): left out of prompts, so that what is trained is what is served.
    dropped_prompt_end: str = ""

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens.get("pad_token")

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Template:
        """Raises `AttuneError` (invalid_template) for what is no template of ours."""
        try:
            return msgspec.json.decode(text, type=Template)
        except msgspec.DecodeError as error:
            raise AttuneError(f"the frozen chat template cannot be read: {error}", code="invalid_template") from error


class _Generation(Extension):
    """{% generation %} marks the assistant's text in some templates; here it only has to render its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """`dict` without its attributes."""

    def __call__(self, *args: Json, **kwargs: Json) -> dict[str, Json]:
        return dict(*args, **kwargs)  # pyright: ignore[reportCallIssue, reportUnknownVariableType, reportArgumentType]


class _SafeNamespace(Namespace):
    """Refuses names that begin with an underscore, which reach into the interpreter."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        values: dict[str, object] = dict(*args, **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a chat template cannot store {name!r} on a namespace")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Json,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class TextRenderer:
    """Messages to text through the template. Thread-safe."""

    def __init__(self, template: Template) -> None:
        self._template = template
        day = datetime.strptime(template.date, "%Y-%m-%d")

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        # Jinja types its globals by its own defaults
        cast("dict[str, object]", environment.globals).update(
            raise_exception=_raise_exception, strftime_now=day.strftime, dict=_Dict(), namespace=_SafeNamespace
        )
        sources = (template.chat_template, template.tool_template)
        try:
            self._plain, self._with_tools = (
                None if source is None else environment.from_string(source) for source in sources
            )
        except TemplateError as error:
            raise TemplateRefused(f"the chat template does not compile: {error}") from error
        for compiled in (self._plain, self._with_tools):
            if compiled is not None:
                # Jinja looks them up through a chain written in Python, at every rendering; here they never change
                compiled.globals = dict(compiled.globals)

    def render(self, messages: Sequence[dict[str, Json]], tools: Sequence[dict[str, Json]], *, prompt: bool) -> str:
        """The conversation as text; with `prompt`, followed by what opens the assistant's turn.

        Raises `TemplateRefused` without a template, `InvalidExample` when the template refuses the messages.
        """
        compiled = self._with_tools if tools and self._with_tools is not None else self._plain
        if compiled is None:
            raise TemplateRefused(
                "this base model has no chat template; train it on prompt and completion or on text, "
                "or choose a base made for chat"
            )
        try:
            text = compiled.render(
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=prompt,
                **self._template.special_tokens,
            )
        # A template is a program of strangers: it may add text to None or index what is not there
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InvalidExample(
                f"the base model's chat template refuses this conversation: {error}", code="template_refuses_example"
            ) from error
        return text.removesuffix(self._template.dropped_prompt_end) if prompt else text
