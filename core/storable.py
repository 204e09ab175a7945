"""Text that a request may bring: what the databases take, within bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character (\\u0000); remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair; send well-formed Unicode") from error
    return text


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True), AfterValidator(_storable)]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_storable)]
FileId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MetadataKey = Annotated[Text, StringConstraints(max_length=64)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]
