"""Constrained decoding: after every token, which tokens may follow so that the answer stays within a grammar.

The grammars and their masks are llguidance's (https://github.com/guidance-ai/llguidance), a Rust library.
What a caller's schema may cost is bounded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from core.errors import AttuneError

MAX_SCHEMA_CHARS = 32_768  # compiling costs at worst the square of it: about 0.3 s at this length
_LIMITS = LLParserLimits(max_grammar_size=100_000, verbose_errors=False)
# White space as a tuned model may have learnt to put it, but never without end
_WHITE_SPACE = {"whitespace_flexible": True, "whitespace_pattern": r"[ \t\n\r]{1,32}"}


@dataclass(frozen=True)
class Grammar:
    """What an answer has to be, in llguidance's words; `param` is the field of the request that asked for it."""

    text: str
    param: str


def json_grammar(schema: object, param: str, *, lenient: bool = False) -> Grammar:
    """Answers that are JSON of `schema`. `lenient`: keywords that cannot be enforced are passed over, not refused.

    Raises AttuneError (invalid_json_schema) for a schema that is too long.
    """
    text = json.dumps(schema)
    check_length(text, param)
    try:
        return Grammar(LLMatcher.grammar_from_json_schema(text, overrides=compile_options(lenient)), param)
    except ValueError as error:
        raise _invalid(param, str(error)) from error


def compile_options(lenient: bool) -> dict[str, object]:
    """How a schema is compiled, also where it stands within a larger grammar."""
    return {**_WHITE_SPACE, "lenient": lenient}


def check_length(schema_text: str, param: str) -> None:
    if len(schema_text) > MAX_SCHEMA_CHARS:
        raise _invalid(param, f"it has {len(schema_text)} characters; {MAX_SCHEMA_CHARS} are taken at most")


class Constraint:
    """Where one answer stands in its grammar. For one thread."""

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def copy(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), self._param)

    def apply(self, logits_V: torch.Tensor) -> torch.Tensor:
        """The logits with -inf for every token that cannot follow: (V,).

        Raises AttuneError where following the grammar would cost too much.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise _invalid(self._param, f"it is too complex to follow ({_first_line(self._matcher)})")
        allowed_V = torch.zeros(logits_V.shape[0], dtype=torch.bool)  # a base may have more rows than tokens
        bits = torch.from_numpy(np.unpackbits(packed, bitorder="little")[: logits_V.shape[0]].astype(np.bool_))
        allowed_V[: bits.shape[0]] = bits
        return logits_V.masked_fill(~allowed_V, float("-inf"))

    def take(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


class Vocabulary:
    """The tokens of a model as the grammars see them; made once for a tokenizer, in up to a second."""

    def __init__(self, tokenizer_json: str, stop_ids: Sequence[int]) -> None:
        """Raises AttuneError for a tokenizer whose tokens are no bytes."""
        try:
            self._tokenizer = LLTokenizer(tokenizer_json, eos_token=list(stop_ids))
        except ValueError as error:
            message = f"this model's tokenizer cannot be constrained: {error}"
            raise AttuneError(message, code="constraint_unsupported", param="response_format") from error

    def compile(self, grammar: Grammar) -> Constraint:
        """Raises AttuneError (invalid_json_schema) that says what is wrong with the schema."""
        matcher = LLMatcher(self._tokenizer, grammar.text, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _invalid(grammar.param, _first_line(matcher))
        return Constraint(matcher, grammar.param)


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().strip().split("\n", 1)[0][:300]


def _invalid(param: str, reason: str) -> AttuneError:
    return AttuneError(f"Invalid schema for {param}: {reason}.", code="invalid_json_schema", param=param)
