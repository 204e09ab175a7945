"""Too long: an error with the line, a drop, or a cut at the left of the prompt; never a token of an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidExample
from core.planning.too_long import Fitted, counted, fit
from core.rendering.render import Rendered
from core.spec import TooLong

BOS = 1


def rendered(prompt: int, answer: int, *, bos: bool = True) -> Rendered:
    """Token ids that say where they came from: 1, then 100, 101, … of the prompt, then 900, 901, … of the answer."""
    ids = [*([BOS] if bos else []), *range(100, 100 + prompt), *range(900, 900 + answer)]
    return Rendered(ids, [token >= 900 for token in ids])


def fitted(sequences: list[Rendered], limit: int, policy: TooLong, *, is_pair: bool = False) -> Fitted:
    return fit(sequences, limit, policy, line=7, bos_id=BOS, is_pair=is_pair)


@pytest.mark.parametrize("policy", list(TooLong))
def test_what_fits_is_left_alone(policy: TooLong) -> None:
    sequences = [rendered(3, 4), rendered(1, 2)]
    found = fitted(sequences, 8, policy)
    assert (found.sequences, found.truncated, found.dropped) == (sequences, False, False)


def test_the_default_is_an_error_that_names_line_length_and_ways_out() -> None:
    with pytest.raises(
        InvalidExample, match=r"line 7: the example has 9 tokens, more than .* \(8\).*too_long"
    ) as caught:
        fitted([rendered(1, 1), rendered(4, 4)], 8, TooLong.ERROR)
    assert (caught.value.code, caught.value.line) == ("example_too_long", 7)


def test_a_drop_leaves_nothing_of_the_example() -> None:
    assert fitted([rendered(1, 1), rendered(4, 4)], 8, TooLong.DROP).dropped


@given(prompt=st.integers(1, 40), answer=st.integers(1, 20), limit=st.integers(2, 40), bos=st.booleans())
def test_truncation_keeps_the_answer_the_bos_and_the_prompts_end(
    prompt: int, answer: int, limit: int, bos: bool
) -> None:
    whole = rendered(prompt, answer, bos=bos)
    try:
        found = fitted([whole], limit, TooLong.TRUNCATE)
    except InvalidExample:
        assert answer + 1 > limit  # even one token of prompt, or the BOS, would not fit beside the answer
        return
    (cut,) = found.sequences
    assert len(cut.token_ids) == min(limit, len(whole.token_ids))
    assert found.truncated == (len(whole.token_ids) > limit)
    assert [token for token, on in zip(cut.token_ids, cut.mask, strict=True) if on] == [*range(900, 900 + answer)]
    assert not cut.mask[0]
    assert (cut.token_ids[0] == BOS) == bos
    kept = [token for token in cut.token_ids if 100 <= token < 900]
    assert kept == [*range(100 + prompt - len(kept), 100 + prompt)]


def test_an_answer_that_is_too_long_by_itself_is_an_error() -> None:
    with pytest.raises(InvalidExample, match="line 7: the example is 4 tokens too long, and only 3 before") as caught:
        fitted([rendered(3, 8)], 8, TooLong.TRUNCATE)
    assert caught.value.code == "example_too_long"


def test_a_pair_keeps_one_prompt() -> None:
    short, long = fitted([rendered(6, 2), rendered(6, 5)], 10, TooLong.TRUNCATE, is_pair=True).sequences
    assert len(long.token_ids) == 10
    assert [t for t in short.token_ids if t < 900] == [t for t in long.token_ids if t < 900] == [1, 102, 103, 104, 105]


def test_what_was_left_out_or_cut_is_told_with_its_lines() -> None:
    assert counted((), (), "Training file", 8) == []
    told = counted([3], [*range(1, 30)], "Training file", 512)
    assert told[0] == "Training file: 1 example is longer than 512 tokens and left out: lines 3"
    assert told[1].startswith("Training file: 29 examples are longer than 512 tokens and cut at the beginning")
    assert told[1].endswith("15, 16 …")
