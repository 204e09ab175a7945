"""Shapes that several endpoints share on the wire, and the text that may stand in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from core.storable import storable

Text = Annotated[str, AfterValidator(storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True), AfterValidator(storable)]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(storable)]


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
