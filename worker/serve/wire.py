"""OpenAI's shapes of a chat completion, whole and in chunks, from the deltas of a generation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core import ids
from worker.serve.tool_calls import ToolCall, ToolCallReader

if TYPE_CHECKING:
    from core.rendering.render import Renderer
    from worker.engine.answer import TokenLogprob
    from worker.engine.generate import Delta

Json = dict[str, object]


def event(data: Mapping[str, object] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


@dataclass
class _Choice:
    reader: ToolCallReader | None  # None: no call can be in it
    text: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    finish_reason: str | None = None

    def message(self) -> Json:
        content = "".join(self.text)
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self.calls:
            message["content"] = content or None
            message["tool_calls"] = [_call(call) for call in self.calls]
        return message


class Completion:
    """The answer to one request: `take` each delta; then `whole`, or what `take` gave on the way."""

    def __init__(
        self,
        model: str,
        fingerprint: str,
        renderer: Renderer,
        *,
        n: int,
        logprobs: bool,
        usage: bool,
        reader: Callable[[], ToolCallReader | None] = lambda: None,
    ) -> None:
        self._head: Json = {
            "id": "chatcmpl-" + ids.random_text(24),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._renderer = renderer
        self._wants_logprobs = logprobs
        self._wants_usage = usage
        self._choices = [_Choice(reader()) for _ in range(n)]

    def first_chunks(self) -> list[Json]:
        """Each choice opens with its role."""
        return [
            self._chunk(
                index,
                {"role": "assistant", "content": None if choice.reader else "", "refusal": None},
                None,
                None,
            )
            for index, choice in enumerate(self._choices)
        ]

    def take(self, delta: Delta) -> list[Json]:
        """Add a delta; the chunks that stream it."""
        choice = self._choices[delta.index]
        chunks: list[Json] = []
        shown = [self._shown(logprob) for logprob in delta.logprobs]
        choice.logprobs.extend(shown)
        parts: list[str | ToolCall] = [delta.text] if delta.text else []
        if choice.reader is not None:
            parts = choice.reader.feed(delta.text)
            if delta.finish_reason is not None:
                parts += choice.reader.end()
        if shown and not any(isinstance(part, str) for part in parts):
            parts.insert(0, "")  # a part of a call has log-probabilities, too
        for part in parts:
            if isinstance(part, ToolCall):
                chunks += self._call_chunks(delta.index, part)
                choice.calls.append(part)
            else:
                chunks.append(self._chunk(delta.index, {"content": part}, shown, None))
                choice.text.append(part)
                shown = []
        if delta.finish_reason is not None:
            ended = delta.finish_reason == "stop"
            choice.finish_reason = "tool_calls" if ended and choice.calls else delta.finish_reason
            chunks.append(self._chunk(delta.index, {}, None, choice.finish_reason))
        return chunks

    def _call_chunks(self, index: int, call: ToolCall) -> list[Json]:
        """OpenAI's two steps: what is called, then with what."""
        place = len(self._choices[index].calls)
        opening = _call(call, arguments="")
        steps: list[Json] = [{"index": place, **opening}, {"index": place, "function": {"arguments": call.arguments}}]
        return [self._chunk(index, {"tool_calls": [step]}, None, None) for step in steps]

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> Json | None:
        """The last chunk, where it was asked for."""
        if not self._wants_usage:
            return None
        usage = usage_of(prompt_tokens, completion_tokens)
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(self, prompt_tokens: int, completion_tokens: int) -> Json:
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": {"content": choice.logprobs, "refusal": None} if self._wants_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        usage = usage_of(prompt_tokens, completion_tokens)
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _chunk(self, index: int, delta: Json, logprobs: list[Json] | None, finish_reason: str | None) -> Json:
        shown = {"content": logprobs, "refusal": None} if self._wants_logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}
        chunk: Json = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._wants_usage:
            chunk["usage"] = None
        return chunk

    def _shown(self, logprob: TokenLogprob) -> Json:
        return {
            **self._token(logprob.token_id, logprob.logprob),
            "top_logprobs": [self._token(token_id, value) for token_id, value in logprob.top],
        }

    def _token(self, token_id: int, logprob: float) -> Json:
        return {
            "token": self._renderer.decode([token_id], skip_special=False),
            "logprob": max(logprob, -9999.0),  # OpenAI's value for "very unlikely"; JSON knows no -inf
            "bytes": token_bytes(self._renderer, token_id),
        }


def token_bytes(renderer: Renderer, token_id: int) -> list[int] | None:
    """The bytes of a token that is text by itself; None for a part of a character."""
    text = renderer.decode([token_id], skip_special=False)
    return None if "\ufffd" in text else list(text.encode())


def _call(call: ToolCall, arguments: str | None = None) -> Json:
    shown = call.arguments if arguments is None else arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": shown}}


def usage_of(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
