"""`attune keys`: make, list and revoke what clients authenticate with.

An operator does it for every project, a key with the scope admin for its own.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer
from openai import BaseModel

from cli.connection import connected, errors, screen
from cli.pages import every
from cli.show import AsJson, print_json, print_table, when

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"
    INFERENCE = "inference"
    ADMIN = "admin"


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if match is None:
        raise typer.BadParameter("give a number with its unit: 90s, 30m, 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


class Key(BaseModel):
    """A key as the service shows it; `key` itself only when it is made."""

    id: str
    name: str
    project_id: str
    is_operator: bool
    scopes: list[str]
    created_at: float
    expires_at: float | None = None
    prefix: str | None = None
    last_used_at: float | None = None
    key: str | None = None


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for; shown in lists.")],
    project: Annotated[str | None, typer.Option(help="Id of its project. Default: yours.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="May do everything, and run the place.")] = False,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; repeat for several. Default: read, write, inference.")
    ] = None,
    expires_in: Annotated[
        int | None,
        typer.Option(parser=_seconds, metavar="TIME", help="Such as 12h or 30d. Default: it does not expire."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    body: dict[str, object] = {"name": name}
    if project is not None:
        body["project_id"] = project
    if operator:
        body["is_operator"] = True
    if scope:
        body["scopes"] = scope
    if expires_in is not None:
        body["expires_in_s"] = expires_in
    with connected(context) as client:
        made = client.post("/attune/keys", cast_to=Key, body=body)
    if as_json:
        print_json(made)
        return
    errors.print(f"{made.id}: keep the key, it cannot be shown again")
    screen.print(made.key, soft_wrap=True, markup=False)


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """The keys in force."""
    with connected(context) as client:
        keys = every(client, "/attune/keys", Key)
    if as_json:
        print_json(keys)
        return
    print_table(
        keys,
        {
            "id": lambda key: key.id,
            "name": lambda key: key.name,
            "project": lambda key: key.project_id,
            "may": lambda key: "operator" if key.is_operator else ", ".join(key.scopes),
            "begins with": lambda key: key.prefix,
            "made": lambda key: when(key.created_at),
            "expires": lambda key: when(key.expires_at) or "never",
            "last used": lambda key: when(key.last_used_at) or "never",
        },
    )


@app.command()
def revoke(context: typer.Context, key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a key: its next request is refused."""
    with connected(context) as client:
        client.delete(f"/attune/keys/{key_id}", cast_to=object)
    screen.print(f"revoked {key_id}")
