"""What tests of stores write: blocks of bytes, and what a store says of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from core.settings import Settings
from core.store.storage import Stored

MIB = 1024 * 1024


def settings_of(variables: dict[str, str], **more: str) -> Settings:
    given = {name.removeprefix("ATTUNE_").lower(): value for name, value in variables.items()}
    return Settings(**{**given, **more})  # pyright: ignore[reportArgumentType]


def stored(data: bytes) -> Stored:
    return Stored(len(data), hashlib.sha256(data).hexdigest())


def blocks(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` different blocks of 1 MiB."""
    random_numbers = random.Random(seed)
    for _ in range(count):
        yield random_numbers.randbytes(MIB)
