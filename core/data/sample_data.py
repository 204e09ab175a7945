"""Made-up customer messages, and the ticket that a person would write for each: the demo's task, from a seed.

Every message names a product, a problem, a wish and a city in free words; the ticket is a small JSON of the four.
Held-out combinations of facts come out only where they are asked for: a score on them is a score on unseen ones.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PRODUCTS = (
    "kettle", "toaster", "lamp", "blender", "vacuum cleaner", "coffee machine", "bicycle", "tent", "backpack",
    "keyboard", "monitor", "printer", "camera", "clock", "sofa", "umbrella",
)  # fmt: skip
CITIES = (
    "Oslo", "Lyon", "Porto", "Turin", "Ghent", "Basel", "Riga", "Turku", "Leeds", "Cork", "Osaka", "Lima",
)  # fmt: skip
NAMES = (
    "Mara", "Jonas", "Aisha", "Pablo", "Ingrid", "Yuki", "Omar", "Lena", "Priya", "Samuel", "Diego", "Hana",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# What the ticket calls a problem, and how people say it.
PROBLEMS: dict[str, tuple[str, ...]] = {
    "broken": (
        "the {product} stopped working after two days",
        "my {product} does not work any more",
        "the {product} gave up on {day}",
        "since {day} my {product} makes a terrible noise and then nothing",
    ),
    "late": (
        "I am still waiting for the {product}",
        "the {product} should have been here on {day}",
        "my {product} has not arrived yet",
        "nobody can tell me where my {product} is",
    ),
    "wrong": (
        "this is not the {product} that I ordered",
        "I opened the box and found a different {product} inside",
        "the {product} has the colour of somebody else's order",
        "you sent me another {product} than the one I chose",
    ),
    "damaged": (
        "the {product} came out of the box with a crack",
        "there are deep scratches all over the {product}",
        "the corner of the {product} was bent when the driver handed it over",
        "somebody must have dropped the {product} on its way to me",
    ),
    "incomplete": (
        "half of the parts of the {product} are missing",
        "the {product} came without its cable",
        "there were no screws in the box of the {product}",
        "I cannot find the manual of the {product} anywhere in the box",
    ),
    "billing": (
        "I was charged twice for the {product}",
        "the price of the {product} on my bill is too high",
        "the discount for the {product} never showed up on my card",
        "my bank shows two payments for one {product}",
    ),
}
WISHES: dict[str, tuple[str, ...]] = {
    "refund": (
        "I want my money back",
        "please pay me back in full",
        "kindly return the whole amount to my account",
        "I expect to see the money again by {day}",
    ),
    "replacement": (
        "please send me a new one",
        "I would like to swap it for another one",
        "could you ship one that is all right",
        "let me have a fresh one by {day}",
    ),
    "repair": (
        "can somebody fix it",
        "I would rather have it mended than thrown away",
        "please let a technician look at it on {day}",
        "is there a workshop that puts it right",
    ),
    "call": (
        "please ring me on {day}",
        "I need to talk to a person about this",
        "give me a number where somebody picks up",
        "could one of you phone me after work",
    ),
}
_GREETINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "To whom it may concern:")
_INTRODUCTIONS = (
    "my name is {name} and I live in {city}.",
    "{name} here, writing from {city}.",
    "I am {name} from {city}, order {order}.",
    "this is about order {order}, delivered to {name} in {city}.",
    "I bought something in your {city} shop last {day}.",
    "greetings from {city}!",
)
_CLOSINGS = ("Thank you.", "Best regards, {name}", "I am not amused.", "Thanks in advance!", "{name}", "")


@dataclass(frozen=True)
class Message:
    """One customer message and the facts that are in it."""

    text: str
    product: str
    problem: str
    wish: str
    city: str
    name: str
    order: int
    day: str

    @property
    def ticket(self) -> str:
        """The right answer of the demo's task."""
        return json.dumps({"product": self.product, "problem": self.problem, "wants": self.wish, "city": self.city})


def held_out(product: str, problem: str, wish: str) -> bool:
    """One combination in six is kept for measuring. CRC-32 and not hash(): the same in every process."""
    return zlib.crc32(f"{product}/{problem}/{wish}".encode()) % 6 == 0


def write_message(rng: random.Random) -> Message:
    """Any message, held-out combinations among them."""
    product, city, name = rng.choice(PRODUCTS), rng.choice(CITIES), rng.choice(NAMES)
    problem, wish = rng.choice(sorted(PROBLEMS)), rng.choice(sorted(WISHES))
    order, day = rng.randrange(1000, 10000), rng.choice(DAYS)

    def fill(phrase: str) -> str:
        return phrase.format(product=product, city=city, name=name, order=order, day=day)

    body = [fill(rng.choice(PROBLEMS[problem])), fill(rng.choice(WISHES[wish]))]
    if rng.random() < 0.2:
        body.reverse()
    sentences = [text[0].upper() + text[1:] + "." for text in body]
    introduction = f"{rng.choice(_GREETINGS)} {fill(rng.choice(_INTRODUCTIONS))}"
    text = " ".join([introduction, *sentences, fill(rng.choice(_CLOSINGS))]).strip()
    return Message(text, product, problem, wish, city, name, order, day)


def messages(seed: int, *, unseen: bool) -> Iterator[Message]:
    """Endless different messages: of held-out combinations only if `unseen`, else of the others only."""
    rng = random.Random(seed)  # noqa: S311 - data, not secrets
    seen: set[str] = set()
    while True:
        message = write_message(rng)
        if held_out(message.product, message.problem, message.wish) == unseen and message.text not in seen:
            seen.add(message.text)
            yield message
