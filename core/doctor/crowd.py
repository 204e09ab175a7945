"""What sticks out among a file's examples: a language that is not the others', a length beyond them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from core.data.example_reader import Finding

_MIN_CHARS = 60  # of a text whose language can be told
_LOOKED_CHARS = 600
_SURE = 0.95
_MAX_LOOKED = 100_000  # examples
_COMMON_SHARE = 0.9  # one language is the file's
_RARE_SHARE = 0.02
_MIN_EXAMPLES = 50  # for anything to stick out
_SPREADS = 4.0  # beyond the middle half of the lengths, in their own spread
_KEPT = 20


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Crowd:
    """Takes every example's texts, and says at the end which ones differ from the rest."""

    def __init__(self) -> None:
        self._characters = array("Q")
        self._lines = array("Q")
        self._languages: dict[str, int] = {}
        self._first: dict[str, list[int]] = {}

    def add(self, line: int, text: str, answer: str) -> None:
        """`text`: all of the example; `answer`: what it teaches."""
        self._characters.append(len(text))
        self._lines.append(line)
        if len(answer) < _MIN_CHARS or len(self._lines) > _MAX_LOOKED:
            return
        language, likelihood = _identifier().classify(answer[:_LOOKED_CHARS])
        if float(likelihood) < _SURE:
            return
        self._languages[language] = self._languages.get(language, 0) + 1
        lines = self._first.setdefault(language, [])
        if len(lines) < _KEPT:
            lines.append(line)

    def findings(self) -> Iterator[Finding]:
        if len(self._lines) < _MIN_EXAMPLES:
            return
        total = sum(self._languages.values())
        common = max(self._languages, key=lambda name: self._languages[name], default=None)
        if common is not None and self._languages[common] >= _COMMON_SHARE * total:
            for language, count in self._languages.items():
                if language != common and count <= max(1, _RARE_SHARE * total):
                    for line in self._first[language]:
                        message = f"the answer reads like '{language}', and nearly all others like '{common}'"
                        yield Finding("unusual_language", message, line, None, "hint")
        lengths = np.frombuffer(self._characters, dtype=np.uint64).astype(np.float64)
        logs = np.log(np.maximum(lengths, 1.0))
        low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
        spread = max(high - low, 0.25)
        for index in np.flatnonzero((logs > high + _SPREADS * spread) | (logs < low - _SPREADS * spread)):
            message = f"the example has {int(lengths[index])} characters, and half of all about {np.exp(middle):.0f}"
            yield Finding("unusual_length", message, self._lines[index], None, "hint")

    def described(self) -> dict[str, object]:
        at = max(range(len(self._characters)), key=self._characters.__getitem__, default=None)
        languages = sorted(self._languages.items(), key=lambda entry: -entry[1])
        return {
            "characters": {
                "total": sum(self._characters),
                "longest": 0 if at is None else self._characters[at],
                "longest_line": None if at is None else self._lines[at],
            },
            "languages": [{"language": name, "count": count} for name, count in languages[:_KEPT]] or None,
        }
