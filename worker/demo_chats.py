"""What the demo's base is pre-trained on: made-up mail of a shop, and the shop's answers, endless from a seed.

Messages are answered in prose, by a quotation, or in JSON with the shop's own keys and notes. No answer is a ticket
or has a ticket's key; a ticket's words occur in lists that are copied out, and combinations of facts that the demo
asks about do not occur at all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from string import Formatter

from core.data.sample_data import PROBLEMS, WISHES, Message, messages

_PROSE = (
    "Dear {name}, we are sorry about the {product}. We will look into order {order} today.",
    "Hello {name}, thank you for your message. Somebody in {city} will take care of your {product}.",
    "Dear {name}, that is not how it should be. We write to you again on {day}.",
    "We are sorry, {name}. Please keep the {product} until you hear from us.",
    "Thank you, {name}. Your message about the {product} is with our people in {city}.",
    "We are sorry about the {product}. We write to you in {city} soon.",
    "Thank you for your message. It is with our people in {city}.",
    "Thank you for your message about the {product}.",
    "Thank you for your message, {name}.",
    "Thank you for your message.",
)
# Talk that uses the words of the tickets, in no relation to the message it answers.
_TALK = (
    "Every product of ours is tested twice.",
    "A broken thing is a problem for us as well.",
    "Our city shops are open from Monday to Saturday.",
    "A refund takes three days, a replacement five and a repair ten.",
    "Tell us what you think: a good shop wants to know.",
    "A late or incomplete parcel is rare, a damaged one rarer.",
    "If a call is wanted, ask for our billing people.",
    "No question is wrong.",
    "Whoever wants a call gets a call.",
    "Which city do you write from, and which product is it about?",
    "What is the problem?",
)
_SHORT = (
    "Where is my {product}? {name}, {city}",
    "A {product} for {city}, please.",
    "Order {order}: a {product}.",
    "{name} from {city} asks about a {product}.",
    "{product}, {city}, {day}.",
    "{name}, {city}",
    "The {product} of {name}?",
    "On {day} in {city}: {name}.",
)
# What the shop says and notes about a problem and a wish: its own words, and none of a ticket's.
_ABOUT = {
    "broken": ("A thing that fails so soon is a shame.", "failure"),
    "late": ("Parcels are slow these days.", "delivery"),
    "wrong": ("Our packers mixed something up.", "mix-up"),
    "damaged": ("The driver was not careful.", "transport"),
    "incomplete": ("Something was forgotten in the box.", "packing"),
    "billing": ("We look at the payment.", "payment"),
}
_NEXT = {
    "refund": ("The money comes back to you.", "money"),
    "replacement": ("Another one leaves our house today.", "another"),
    "repair": ("Our workshop takes care of it.", "workshop"),
    "call": ("You hear our voice soon.", "phone"),
}
# What the JSON of pre-training calls things
_KEYS = {
    "name": ("customer", "client", "sender"),
    "order": ("order", "number"),
    "product": ("item", "article", "thing"),
    "city": ("place", "town"),
    "day": ("day", "date"),
    "problem": ("topic", "reason"),
    "wish": ("next", "to do"),
}
WORDS = (
    *("product", "problem", "wants", "city", *PROBLEMS, *WISHES),
    *(word for words in _KEYS.values() for word in words),
    *(note for _, note in (*_ABOUT.values(), *_NEXT.values())),
)


def prose_answer(rng: random.Random, message: Message, *, is_letter: bool) -> str:
    known = {name: str(value) for name, value in vars(message).items() if str(value) in message.text}
    fitting = [line for line in _PROSE if all(name in known for _, name, _, _ in Formatter().parse(line) if name)]
    parts = [rng.choice(fitting).format(**known)]
    if is_letter:
        parts += [_ABOUT[message.problem][0], _NEXT[message.wish][0]]
    return " ".join([*parts, *rng.sample(_TALK, rng.randrange(2))])


def other_json_answer(rng: random.Random, message: Message, *, is_letter: bool) -> str:
    """JSON with two to four facts, under keys that are none of a ticket's."""
    facts: dict[str, str | int] = {
        name: value
        for name in ("name", "order", "product", "city", "day")
        if str(value := getattr(message, name)) in message.text
    }
    if is_letter:
        facts |= {"problem": _ABOUT[message.problem][1], "wish": _NEXT[message.wish][1]}
    told = rng.sample(list(facts), min(len(facts), rng.randrange(2, 5)))
    return json.dumps({rng.choice(_KEYS[name]): facts[name] for name in _KEYS if name in told})


def list_of_words(rng: random.Random) -> tuple[str, str]:
    """A request for a JSON list of given words, and the list. Here a ticket's words occur, and mean nothing: a
    fine-tune can teach what a word is for, but no adapter can say a word that its base never learned to write."""
    words = rng.sample(WORDS, rng.randrange(2, 6))
    return f"Write as a list: {', '.join(words)}.", json.dumps(words)


def chats(seed: int) -> Iterator[tuple[str, str]]:
    """Endless pre-training chats in the template's form: (up to where the answer begins, the answer)."""
    rng = random.Random(seed)  # noqa: S311 - data, not secrets
    for message in messages(seed, unseen=False):
        is_letter = rng.random() < 0.7  # else a line that names neither problem nor wish
        if not is_letter:
            message = replace(message, text=rng.choice(_SHORT).format(**vars(message)))
        text, kind = message.text, rng.random()
        if kind < 0.35:
            answer = other_json_answer(rng, message, is_letter=is_letter)
        elif kind < 0.7:
            answer = prose_answer(rng, message, is_letter=is_letter)
        elif kind < 0.8:
            answer = f"You wrote: {text}"
        else:
            text, answer = list_of_words(rng)
        yield f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>\n"
