"""Shapes that several endpoints share on the wire."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
