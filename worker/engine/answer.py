"""Turns one sequence of sampled token ids into text that can be sent as it comes: whole characters only, nothing
of a stop string, and each token's log-probability beside the text it belongs to. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
_BROKEN = "\ufffd"  # what decoding puts in the place of bytes that are no character (yet)


class Decodes(Protocol):
    """The part of `core.rendering.render.Renderer` that an answer needs."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str: ...


@dataclass(frozen=True)
class TokenLogprob:
    """A sampled token and its rivals, in nats, of the model's own distribution (no temperature, no penalty)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), best first


@dataclass(frozen=True)
class Piece:
    """What became sendable: text, the log-probabilities of its tokens, and why the answer ended, if it did."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


class Answer:
    """One answer in the making. `add` each sampled token until a piece has a finish reason."""

    def __init__(self, decoder: Decodes, *, stop_ids: Sequence[int], stop: Sequence[str], max_tokens: int) -> None:
        self.token_ids: list[int] = []  # without the stop id
        self.sampled_tokens = 0  # with it
        self._decoder = decoder
        self._stop_ids = frozenset(stop_ids)
        self._stop = tuple(stop)
        self._max_tokens = max_tokens
        # Tokens from `_window` on are decoded together, since a token's text depends on its left neighbour;
        # of that text, what belongs to the tokens before `_read` was handed on already.
        self._window = 0
        self._read = 0
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self._sent_chars = 0
        self._decoded_chars = 0
        self._waiting: list[tuple[int, TokenLogprob]] = []  # (first character of the token's text, …)

    def add(self, token_id: int, logprob: TokenLogprob | None = None) -> Piece:
        """Take the next token; a stop id ends the answer and shows neither text nor log-probability."""
        self.sampled_tokens += 1
        if token_id in self._stop_ids:
            return self._end("stop")
        self.token_ids.append(token_id)
        if logprob is not None:
            self._waiting.append((self._decoded_chars, logprob))
        self._take(self._decode_new())
        cut = self._first_stop()
        if cut is not None:
            return self._send(cut, "stop")
        if len(self.token_ids) >= self._max_tokens:
            return self._end("length")
        return self._send(len(self._held) - self._possible_stop())

    def _decode_new(self, at_end: bool = False) -> str:
        before = self._decoder.decode(self.token_ids[self._window : self._read])
        now = self._decoder.decode(self.token_ids[self._window :])
        if at_end:
            # A character that was never finished is not sent in halves
            return now[len(before) :].rstrip(_BROKEN)
        if len(now) <= len(before) or now.endswith(_BROKEN):
            return ""
        self._window, self._read = self._read, len(self.token_ids)
        return now[len(before) :]

    def _take(self, text: str) -> None:
        self._held += text
        self._decoded_chars += len(text)

    def _first_stop(self) -> int | None:
        """Where the stop string begins that is complete first, so that token borders make no difference."""
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that may be the beginning of a stop string."""
        longest = min(len(self._held), max((len(stop) for stop in self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _end(self, reason: FinishReason) -> Piece:
        self._take(self._decode_new(at_end=True))
        cut = self._first_stop()
        if cut is not None:
            return self._send(cut, "stop")
        return self._send(len(self._held), reason)

    def _send(self, characters: int, reason: FinishReason | None = None) -> Piece:
        text, self._held = self._held[:characters], self._held[characters:]
        self._sent_chars += len(text)
        if reason is not None and not self._held:
            covered = len(self._waiting)
        else:
            covered = sum(start < self._sent_chars for start, _ in self._waiting)
        logprobs = tuple(logprob for _, logprob in self._waiting[:covered])
        del self._waiting[:covered]
        return Piece(text, logprobs, reason)
