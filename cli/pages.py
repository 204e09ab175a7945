"""Lists of the service's own resources, which the `openai` client has no names for."""

from __future__ import annotations

from typing import TypeVar

from openai import BaseModel, OpenAI
from openai.pagination import SyncCursorPage, SyncPage

RecordT = TypeVar("RecordT", bound=BaseModel)


def every(client: OpenAI, path: str, record: type[RecordT]) -> list[RecordT]:
    """All records of a list that comes in one page."""
    return list(client.get_api_list(path, model=record, page=SyncPage[record]))


class Named(BaseModel):
    id: str


NamedT = TypeVar("NamedT", bound=Named)


def all_pages(client: OpenAI, path: str, record: type[NamedT]) -> list[NamedT]:
    """All records of a list that comes page by page, each after the last one's id."""
    return list(client.get_api_list(path, model=record, page=SyncCursorPage[record]))
