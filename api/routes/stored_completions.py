"""OpenAI's routes for stored chat completions. Chats are not kept here, `store` or not: there is never one to show.

The routes answer as for a project without any, so that a client's loop over them ends instead of failing.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.parts import Caller
from api.shapes.wire import Page
from core.errors import NotFound

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])
Limit = Annotated[int, Query(ge=1, le=100)]


class StoredCompletionList(Page[dict[str, Any]]):
    pass


@router.get("")
def list_chat_completions(_: Caller, limit: Limit = 20) -> StoredCompletionList:
    """Always empty."""
    return StoredCompletionList(data=[], first_id=None, last_id=None, has_more=False)


@router.get("/{completion_id}")
def retrieve_chat_completion(completion_id: str, _: Caller) -> Response:
    raise _not_stored(completion_id)


@router.post("/{completion_id}")
def update_chat_completion(completion_id: str, _: Caller) -> Response:
    raise _not_stored(completion_id)


@router.delete("/{completion_id}")
def delete_chat_completion(completion_id: str, _: Caller) -> Response:
    raise _not_stored(completion_id)


@router.get("/{completion_id}/messages")
def list_chat_completion_messages(completion_id: str, _: Caller) -> Response:
    raise _not_stored(completion_id)


def _not_stored(completion_id: str) -> NotFound:
    message = f"No such chat completion: {completion_id[:128]}. Chats are not stored here."
    return NotFound(message, code="chat_completion_not_found", param="completion_id")
