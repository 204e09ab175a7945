"""Shapes that several endpoints share on the wire."""

from __future__ import annotations

from fastapi import Response
from pydantic import BaseModel, ConfigDict


class Ours(BaseModel):
    """A request object of ours: strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Shown(BaseModel):
    """A response object: every field always present, null where there is nothing."""

    model_config = ConfigDict(frozen=True)


def written(shown: Shown) -> Response:
    """The answer that `shown` is, for routes that are asked often: left to FastAPI, it goes to a thread once more and
    is checked against its own class."""
    return Response(shown.model_dump_json(), media_type="application/json")


class Deleted(Shown):
    id: str
    object: str
    deleted: bool = True
