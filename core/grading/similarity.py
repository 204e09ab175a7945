"""How alike two texts are, from 0 to 1, by the measures that text graders name.

Words are runs of letters and digits, in lower case for ROUGE; for BLEU and GLEU case counts, and so do punctuation
marks, each a word.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial

MAX_CHARS = 20_000  # of each text: the longest common subsequence costs the product of both
_MAX_ORDER = 4  # n-grams of BLEU and GLEU


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + order]) for at in range(len(words) - order + 1))


def common_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, all columns of the table at once as bits of one integer (Hyyrö,
    "Bit-parallel LCS-length computation revisited", 2004)."""
    places: dict[Hashable, int] = {}
    for at, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << at
    full = (1 << len(one)) - 1
    row = full
    for item in other:
        matches = row & places.get(item, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(one) - row.bit_count()


def fuzzy_match(text: str, reference: str) -> float:
    """The normalised indel similarity, as rapidfuzz's `fuzz.ratio` / 100 has it."""
    total = len(text) + len(reference)
    return 2 * common_subsequence(text, reference) / total if total else 1.0


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al. 2002); orders without a match are smoothed as sacreBLEU does by default
    (exponentially, Chen and Cherry 2014, method 3), orders longer than the text left out."""
    said, wanted = _tokens(text), _tokens(reference)
    logs: list[float] = []
    smoothing = 1.0
    for order in range(1, _MAX_ORDER + 1):
        grams = _grams(said, order)
        if not grams:
            break
        hits = (grams & _grams(wanted, order)).total()
        if order == 1 and not hits:
            return 0.0
        if not hits:
            smoothing *= 2
        logs.append(math.log((hits or 1 / smoothing) / grams.total()))
    if not logs:
        return float(said == wanted)
    brevity = min(0.0, 1 - len(wanted) / len(said))
    return math.exp(brevity + sum(logs) / len(logs))


def gleu(text: str, reference: str) -> float:
    """Google's sentence score (Wu et al. 2016, arXiv 1609.08144, §6): the lower of precision and recall of all
    n-grams of one to four words."""
    said, wanted = (
        Counter(gram for order in range(1, _MAX_ORDER + 1) for gram in _grams(words, order).elements())
        for words in (_tokens(text), _tokens(reference))
    )
    longest = max(said.total(), wanted.total())
    return (said & wanted).total() / longest if longest else 1.0


def rouge_n(order: int, text: str, reference: str) -> float:
    """F1 of the n-grams of one order (Lin 2004)."""
    said, wanted = _grams(_words(text), order), _grams(_words(reference), order)
    return _f1((said & wanted).total(), said.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    said, wanted = _words(text), _words(reference)
    return _f1(common_subsequence(said, wanted), len(said), len(wanted))


def _f1(hits: int, said: int, wanted: int) -> float:
    return 2 * hits / (said + wanted) if said + wanted else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "rouge_1": partial(rouge_n, 1),
    "rouge_2": partial(rouge_n, 2),
    "rouge_3": partial(rouge_n, 3),
    "rouge_4": partial(rouge_n, 4),
    "rouge_5": partial(rouge_n, 5),
    "rouge_l": rouge_l,
}
