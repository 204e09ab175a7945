"""Shapes that several endpoints share on the wire, and the text that may stand in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


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


class Ours(BaseModel):
    """A request object of ours: strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Shown(BaseModel):
    """A response object: every field always present, null where there is nothing."""

    model_config = ConfigDict(frozen=True)


class Deleted(Shown):
    id: str
    object: str
    deleted: bool = True
