"""Which text can be kept: Postgres has no place for a NUL character, and UTF-8 none for half a surrogate pair."""

from __future__ import annotations


def storable(text: str) -> str:
    """The text itself. Raises ValueError for what cannot be kept."""
    if "\x00" in text:
        raise ValueError("holds a NUL character (\\u0000); remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair; send well-formed Unicode") from error
    return text
