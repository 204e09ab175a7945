"""Preference pairs for tests: the better answer is short and to the point."""

from __future__ import annotations

import json
import random

ITEMS, CITIES = ("shirt", "lamp", "sofa", "phone"), ("Berlin", "Rome", "Oslo")
WORSE = ("cannot say", "ask somebody else, please", "no")


def pairs(count: int, seed: int, *, older: bool = False) -> bytes:
    """A file of pairs, in OpenAI's newer or older spelling."""
    name = "completion" if older else "output"
    generator = random.Random(seed)
    lines: list[str] = []
    for _ in range(count):
        item, city, number = generator.choice(ITEMS), generator.choice(CITIES), generator.randint(1, 99)
        ask = f"Please send {number} {item}s to {city}" + ", thank you" * generator.randint(0, 4)
        pair = {
            "input": {"messages": [{"role": "user", "content": ask}]},
            f"preferred_{name}": [{"role": "assistant", "content": f"{number} {item}, {city}"}],
            f"non_preferred_{name}": [{"role": "assistant", "content": generator.choice(WORSE)}],
        }
        lines.append(json.dumps(pair) + "\n")
    return "".join(lines).encode()
