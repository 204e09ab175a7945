"""A job's request as code to copy: curl, and Python with the official client. No key stands in it."""

from __future__ import annotations

import json
from typing import cast

from api.dashboard.draft import from_job
from api.dashboard.rest import Json

MOST_ON_A_LINE = 40  # characters of a value with parts


def request_of(job: Json) -> Json:
    """What to send for the same job again: what was chosen, and the seed that was drawn."""
    if job["method"]["type"] == "supervised":
        return from_job(job).request()
    kind = job["method"]["type"]
    return from_job(job).request() | {"method": {"type": kind, kind: job["method"][kind]}}


def as_curl(job: Json, address: str) -> str:
    body = json.dumps(request_of(job), indent=2, ensure_ascii=False).replace("'", "'\\''")
    return (
        f"curl {address}/v1/fine_tuning/jobs \\\n"
        '  -H "Authorization: Bearer $ATTUNE_API_KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'"
    )


def as_python(job: Json, address: str) -> str:
    body = request_of(job)
    ours = body.pop("attune", None)
    lines = [f"    {name}={_literal(value)}," for name, value in body.items()]
    if ours is not None:
        lines.append(f"    extra_body={_literal({'attune': ours})},")
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{address}/v1", api_key=os.environ["ATTUNE_API_KEY"])\n\n'
        "job = client.fine_tuning.jobs.create(\n" + "\n".join(lines) + "\n)\nprint(job.id)"
    )


def _literal(value: object, indent: int = 4) -> str:
    """On one line where it fits, else a line for each part: a text is never broken, so that it can be searched for."""
    flat, deeper = repr(value), indent + 4
    if len(flat) <= MOST_ON_A_LINE or not isinstance(value, dict | list):
        return flat
    if isinstance(value, dict):
        parts = [f"{name!r}: {_literal(one, deeper)}," for name, one in cast(Json, value).items()]
    else:
        parts = [f"{_literal(one, deeper)}," for one in cast(list[object], value)]
    opening, closing = flat[0], flat[-1]
    lines = "".join(f"\n{' ' * deeper}{part}" for part in parts)
    return f"{opening}{lines}\n{' ' * indent}{closing}"
