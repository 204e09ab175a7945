"""/v1/attune/sample_data: the data that ships with the service, to try it out with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.parts import Caller
from core.data import sample_data
from core.errors import NotFound

router = APIRouter(prefix="/v1/attune/sample_data", tags=["attune"])
# A validation example holds a combination of facts that no training example has
SEEDS = {"training": 11, "validation": 12}
_JSONL: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSONL in OpenAI's chat form",
        "content": {"application/jsonl": {"schema": {"type": "string"}}},
    }
}


@router.get("/{part}", response_class=Response, responses=_JSONL)
def sample_examples(part: str, _: Caller, examples: Annotated[int, Query(ge=10, le=5000)] = 600) -> Response:
    """Made-up customer messages, each with the ticket that a person would write for it. The same for everyone."""
    if part not in SEEDS:
        message = f"There is no sample '{part[:64]}'; there are {' and '.join(SEEDS)}."
        raise NotFound(message, code="sample_not_found", param="part")
    lines = "".join(islice(_lines(part), examples))
    headers = {"content-disposition": f'attachment; filename="sample-tickets-{part}.jsonl"'}
    return Response(lines, media_type="application/jsonl", headers=headers)


def _lines(part: str) -> Iterator[str]:
    for message in sample_data.messages(SEEDS[part], unseen=part == "validation"):
        turns = [{"role": "user", "content": message.text}, {"role": "assistant", "content": message.ticket}]
        yield json.dumps({"messages": turns}) + "\n"
