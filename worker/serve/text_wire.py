"""OpenAI's shapes of a legacy text completion, whole and in pieces; a piece has the shape of the whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core import ids
from worker.serve.wire import Json, usage_of

if TYPE_CHECKING:
    from core.rendering.render import Renderer
    from worker.engine.answer import TokenLogprob
    from worker.engine.generate import Delta


@dataclass
class _Choice:
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    shown_chars: int = 0  # of the tokens that `logprobs` shows: where the next one's text begins
    finish_reason: str | None = None


class TextCompletion:
    """The answer to one request: `take` each delta; then `whole`, or what `take` gave on the way."""

    def __init__(
        self, model: str, fingerprint: str, renderer: Renderer, *, n: int, logprobs: bool, usage: bool
    ) -> None:
        self._head: Json = {
            "id": "cmpl-" + ids.random_text(24),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._renderer = renderer
        self._wants_logprobs = logprobs
        self._wants_usage = usage
        self._choices = [_Choice() for _ in range(n)]

    def first_chunks(self) -> list[Json]:
        """None: there is no role to open with."""
        return []

    def take(self, delta: Delta) -> list[Json]:
        """Add a delta; the chunks that stream it."""
        choice = self._choices[delta.index]
        choice.text += delta.text
        choice.finish_reason = delta.finish_reason
        shown = self._shown(delta.logprobs, choice.shown_chars)
        choice.shown_chars += sum(len(self._text(one.token_id)) for one in delta.logprobs)
        choice.logprobs.extend(delta.logprobs)
        chunk: Json = {**self._head, "choices": [self._choice(delta.index, delta.text, shown, delta.finish_reason)]}
        if self._wants_usage:
            chunk["usage"] = None
        return [chunk]

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> Json | None:
        """The last chunk, where it was asked for."""
        if not self._wants_usage:
            return None
        return {**self._head, "choices": [], "usage": usage_of(prompt_tokens, completion_tokens)}

    def whole(self, prompt_tokens: int, completion_tokens: int) -> Json:
        choices = [
            self._choice(index, choice.text, self._shown(choice.logprobs, 0), choice.finish_reason)
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": usage_of(prompt_tokens, completion_tokens)}

    def _choice(self, index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}

    def _shown(self, logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...], offset: int) -> Json | None:
        """Four lists side by side, an item for each token; offsets in characters of the answer."""
        if not self._wants_logprobs:
            return None
        tokens = [self._text(one.token_id) for one in logprobs]
        offsets: list[int] = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [max(one.logprob, -9999.0) for one in logprobs],
            "top_logprobs": [{self._text(rival): max(value, -9999.0) for rival, value in one.top} for one in logprobs],
            "text_offset": offsets,
        }

    def _text(self, token_id: int) -> str:
        return self._renderer.decode([token_id], skip_special=False)
