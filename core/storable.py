"""Text that a request may bring: Postgres takes no NUL character, and UTF-8 has no half of a surrogate pair."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def storable(text: str) -> str:
    """The text itself. Raises ValueError for what cannot be kept."""
    if "\x00" in text:
        raise ValueError("holds a NUL character (\\u0000); remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair; send well-formed Unicode") from error
    return text


Text = Annotated[str, AfterValidator(storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True), AfterValidator(storable)]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(storable)]
FileId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MetadataKey = Annotated[Text, StringConstraints(max_length=64)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]
