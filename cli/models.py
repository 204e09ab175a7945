"""`attune models`: the catalog of base models and what was trained on them; `attune download`: an adapter's zip."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import typer
from openai import BaseModel
from openai._response import StreamedBinaryAPIResponse
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from cli.connection import connected, fail, screen
from cli.pages import every
from cli.show import AsJson, count, print_json, print_table, when

app = typer.Typer(no_args_is_help=True, help="List models; add and remove base models.")
TUNED_PREFIX = "ft:"
POLL_S = 0.3


class BaseModelEntry(BaseModel):
    """A base model of the catalog."""

    id: str
    status: str
    source: str
    revision: str | None = None
    licence: str | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    gated: bool = False
    description: str | None = None
    error: str | None = None


@app.command("list")
def list_models(
    context: typer.Context,
    tuned: Annotated[bool, typer.Option("--tuned", help="Only fine-tuned models and checkpoints.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Only the catalog of base models.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tuned models and checkpoints, then the catalog of base models."""
    with connected(context) as client:
        models = [] if base else [model for model in client.models.list() if model.id.startswith(TUNED_PREFIX)]
        entries = [] if tuned else every(client, "/attune/base_models", BaseModelEntry)
    if as_json:
        print_json([*models, *entries])
        return
    if models:
        print_table(models, {"fine-tuned": lambda model: model.id, "made": lambda model: when(model.created)})
    if models and entries:
        screen.print()
    if entries:
        print_table(
            entries,
            {
                "base model": lambda entry: entry.id,
                "parameters": lambda entry: count(entry.parameters),
                "context": lambda entry: entry.context_tokens,
                "licence": lambda entry: entry.licence,
                "status": lambda entry: f"error: {entry.error}" if entry.error else entry.status,
                "": lambda entry: "gated" if entry.gated else None,
            },
        )


@app.command()
def add(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A Hugging Face id, or the name of a folder in ATTUNE_MODELS_DIR.")],
    folder: Annotated[bool, typer.Option("--folder", help="MODEL is a folder's name.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a base model into the catalog, pinned to one revision, and wait until it is. Needs an operator's key.

    Its weights are downloaded by the worker that first needs them.
    """
    source: Literal["hub", "folder"] = "folder" if folder else "hub"
    body: dict[str, object] = {"location": model, "source": source}
    if revision is not None:
        body["revision"] = revision
    with connected(context) as client:
        entry = client.post("/attune/base_models", cast_to=BaseModelEntry, body=body)
        while entry.status == "preparing":
            time.sleep(POLL_S)
            entry = client.get(f"/attune/base_models/{quote(entry.id, safe='')}", cast_to=BaseModelEntry)
    if entry.status == "error":
        fail(f"{entry.id}: {entry.error}")
    if as_json:
        print_json(entry)
    else:
        screen.print(f"{entry.id} {entry.status}, revision {entry.revision}")


@app.command()
def remove(
    context: typer.Context, model: Annotated[str, typer.Argument(help="Id of a base or fine-tuned model.")]
) -> None:
    """Delete a fine-tuned model, or take a base model out of the catalog (what was trained on it stays)."""
    with connected(context) as client:
        if model.startswith(TUNED_PREFIX):
            client.models.delete(model)
        else:
            client.delete(f"/attune/base_models/{quote(model, safe='')}", cast_to=object)
    screen.print(f"removed {model}", markup=False)


def download(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id of a fine-tuned model or checkpoint.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Default: MODEL.zip")] = None,
) -> None:
    """Download a model's adapter: a zip of the PEFT folder, with its model card."""
    target = output or Path(model.replace(":", "-") + ".zip")
    if not target.parent.is_dir():
        fail(f"there is no folder {target.parent} to write to")
    with connected(context) as client:
        response = client.get(
            f"/attune/models/{quote(model, safe=':')}/download",
            cast_to=StreamedBinaryAPIResponse,
            # how the client's own streamed downloads keep a large body out of memory
            options={"headers": {"X-Stainless-Raw-Response": "stream", "Accept": "application/zip"}},
        )
        try:
            _write(response, target)
        finally:
            response.close()
    screen.print(f"{target}  {target.stat().st_size:,} bytes", markup=False)


def _write(response: StreamedBinaryAPIResponse, target: Path) -> None:
    """All of it, or nothing: a broken download leaves no file behind."""
    size = response.headers.get("content-length")
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as file,
            Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=screen, transient=True) as progress,
        ):
            task = progress.add_task("download", total=int(size) if size else None)
            for chunk in response.iter_bytes():
                file.write(chunk)
                progress.advance(task, len(chunk))
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)
