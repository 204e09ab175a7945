"""`attune aliases`: other names of models, so that code keeps the names it was written with."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from openai import OpenAI

from cli.connection import connected, screen
from cli.pages import Named, all_pages
from cli.show import AsJson, print_json, print_table, when

PATH = "/attune/aliases"
app = typer.Typer(no_args_is_help=True, help="Give models other names.")
AliasName = Annotated[str, typer.Argument(metavar="ALIAS", help="The other name, such as ft:gpt-4o-mini-…")]


class Alias(Named):
    """`id` is the other name of `model`."""

    model: str
    usable: bool
    created_at: float
    updated_at: float


def every_alias(client: OpenAI) -> dict[str, Alias]:
    """The project's aliases by name."""
    return {alias.id: alias for alias in all_pages(client, PATH, Alias)}


def make(client: OpenAI, name: str, model: str) -> Alias:
    return client.post(PATH, cast_to=Alias, body={"id": name, "model": model})


def path_of(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"


@app.command("list")
def list_aliases(context: typer.Context, as_json: AsJson = False) -> None:
    """All aliases of the project."""
    with connected(context) as client:
        aliases = list(every_alias(client).values())
    if as_json:
        print_json(aliases)
        return
    print_table(
        aliases,
        {
            "alias": lambda alias: alias.id,
            "model": lambda alias: alias.model,
            "": lambda alias: None if alias.usable else "the model is gone",
            "changed": lambda alias: when(alias.updated_at),
        },
    )


@app.command()
def show(context: typer.Context, alias: AliasName, as_json: AsJson = False) -> None:
    """What an alias leads to."""
    with connected(context) as client:
        found = client.get(path_of(alias), cast_to=Alias)
    if as_json:
        print_json(found)
    else:
        screen.print(found.model, markup=False, soft_wrap=True)


@app.command("set")
def set_alias(
    context: typer.Context,
    alias: AliasName,
    model: Annotated[str, typer.Argument(help="Id of a base or fine-tuned model that answers to it.")],
) -> None:
    """Make an alias, or point one elsewhere."""
    with connected(context) as client:
        if alias in every_alias(client):
            made = client.post(path_of(alias), cast_to=Alias, body={"model": model})
        else:
            made = make(client, alias, model)
    screen.print(f"{made.id} -> {made.model}", markup=False, soft_wrap=True)


@app.command()
def remove(context: typer.Context, alias: AliasName) -> None:
    """Delete an alias; its model stays."""
    with connected(context) as client:
        client.delete(path_of(alias), cast_to=object)
    screen.print(f"removed {alias}", markup=False, soft_wrap=True)
