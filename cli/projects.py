"""`attune projects`: the tenants of a service. Needs an operator's key."""

from __future__ import annotations

from typing import Annotated

import typer
from openai import BaseModel

from cli.connection import connected, screen
from cli.pages import every
from cli.show import AsJson, print_json, print_table, when

app = typer.Typer(no_args_is_help=True, help="Make, list and erase projects.")


class Project(BaseModel):
    id: str
    name: str
    slug: str
    created_at: float


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Becomes a part of its models' ids.")],
    as_json: AsJson = False,
) -> None:
    """Make a project. `attune keys create --project ID` gives it a key."""
    with connected(context) as client:
        project = client.post("/attune/projects", cast_to=Project, body={"name": name})
    if as_json:
        print_json(project)
    else:
        screen.print(project.id)


@app.command("list")
def list_projects(context: typer.Context, as_json: AsJson = False) -> None:
    """The projects of this service."""
    with connected(context) as client:
        projects = every(client, "/attune/projects", Project)
    if as_json:
        print_json(projects)
        return
    print_table(
        projects,
        {
            "id": lambda project: project.id,
            "name": lambda project: project.name,
            "in model ids": lambda project: project.slug,
            "made": lambda project: when(project.created_at),
        },
    )


@app.command()
def erase(
    context: typer.Context,
    project_id: Annotated[str, typer.Argument(metavar="ID")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a project with all its files, jobs, models and keys, for good."""
    if not yes:
        typer.confirm(f"Erase {project_id} with all its files, jobs, models and keys?", abort=True)
    with connected(context) as client:
        client.delete(f"/attune/projects/{project_id}", cast_to=object)
    screen.print(f"erased {project_id}")
