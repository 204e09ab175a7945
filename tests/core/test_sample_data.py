"""The demo's messages: the same everywhere, and no question's combination of facts in a file of examples."""

from __future__ import annotations

import json
from itertools import islice

from core.data.sample_data import CITIES, NAMES, PROBLEMS, PRODUCTS, WISHES, held_out, messages


def test_a_seed_gives_the_same_messages() -> None:
    first, second = (list(islice(messages(3, unseen=False), 50)) for _ in range(2))
    assert first == second
    assert first[0] == next(messages(3, unseen=False))
    assert first != list(islice(messages(4, unseen=False), 50))


def test_questions_share_no_combination_and_no_text_with_examples() -> None:
    examples = list(islice(messages(1, unseen=False), 2000))
    questions = list(islice(messages(2, unseen=True), 200))
    asked = {(one.product, one.problem, one.wish) for one in questions}
    assert all(held_out(*combination) for combination in asked)
    assert not asked & {(one.product, one.problem, one.wish) for one in examples}
    assert not {one.text for one in questions} & {one.text for one in examples}
    assert len({one.text for one in examples}) == len(examples)


def test_about_a_sixth_is_held_out_and_every_word_is_in_both_parts() -> None:
    combinations = [(p, q, w) for p in PRODUCTS for q in PROBLEMS for w in WISHES]
    kept = [one for one in combinations if held_out(*one)]
    assert 1 / 9 < len(kept) / len(combinations) < 1 / 4
    for place, words in enumerate((PRODUCTS, PROBLEMS, WISHES)):
        for part in (kept, set(combinations) - set(kept)):
            assert {one[place] for one in part} == set(words)


def test_the_ticket_can_be_read_from_the_message() -> None:
    for message in islice(messages(5, unseen=False), 200):
        ticket = json.loads(message.ticket)
        assert list(ticket) == ["product", "problem", "wants", "city"]
        assert ticket["product"] in message.text
        assert ticket["city"] in message.text
        assert ticket["problem"] in PROBLEMS
        assert ticket["wants"] in WISHES
        assert ticket["city"] in CITIES
        assert message.name in NAMES
