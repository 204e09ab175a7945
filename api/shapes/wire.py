"""Shapes that several endpoints share on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, Protocol, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


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


class Page(Shown, Generic[T]):
    """Some objects of a list, in its order. Each list has a class of its own, which names it in the description."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Identified(Protocol):
    @property
    def id(self) -> str: ...


class Ends(TypedDict):
    first_id: str | None
    last_id: str | None


def ends(data: Sequence[Identified]) -> Ends:
    """What a page says of its first and its last object."""
    return {"first_id": data[0].id if data else None, "last_id": data[-1].id if data else None}
