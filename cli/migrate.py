"""`attune migrate openai`: bring a project's fine-tuning from OpenAI here. Run again, it goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from openai import BaseModel, OpenAI, omit

from cli.connection import connected, errors, errors_end_the_command, fail, screen
from cli.openai_export import Export
from cli.openai_import import AliasLine, FileLine, Import, JobLine, bases_of
from cli.show import AsJson, print_table

OPENAI_URL = "https://api.openai.com/v1"
PATIENT_RETRIES = 5  # OpenAI limits how fast it is read
app = typer.Typer(no_args_is_help=True, help="Move here from another service.")


@app.callback()
def migrate() -> None:
    """Move here from another service."""  # a callback: one command alone would lose its name


class Report(BaseModel):
    files: list[FileLine]
    bases: dict[str, str]
    jobs: list[JobLine]
    aliases: list[AliasLine]


class BaseLine(BaseModel):
    openai_base: str
    base: str | None
    jobs: int


def _table(mapping: list[str]) -> dict[str, str]:
    """OpenAI's bases -> ours: the table that comes with the product, and what the user says."""
    bases: dict[str, str] = json.loads((Path(__file__).parent / "openai_bases.json").read_text())
    for text in mapping:
        theirs, _, ours = text.partition("=")
        if not theirs or not ours:
            raise typer.BadParameter("--map: give OPENAI_BASE=BASE, such as gpt-4o-mini-2024-07-18=Qwen/Qwen3-4B")
        bases[theirs] = ours
    return bases


@app.command("openai")
def migrate_openai(
    context: typer.Context,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only read OpenAI, into this folder; needs no service.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Read a folder exported before, and not OpenAI.")
    ] = None,
    openai_key_file: Annotated[
        Path | None, typer.Option(help="File with OpenAI's key. Default: OPENAI_API_KEY in the environment.")
    ] = None,
    openai_url: Annotated[str, typer.Option(envvar="OPENAI_BASE_URL", help="OpenAI's address.")] = OPENAI_URL,
    project: Annotated[str | None, typer.Option(help="Project here, for an operator's key. Default: its own.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OPENAI_BASE=BASE", help="Which base of ours; repeat for several."),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start the jobs that succeeded there again here.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the jobs have ended, so that aliases are made.")] = False,
    alias_bases: Annotated[
        bool, typer.Option("--alias-bases", help="Let our bases answer to the names of OpenAI's too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask about the bases.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring files, jobs and model names from OpenAI.

    Reads OpenAI page by page into a folder (openai-export, or what --export names), stores the training and
    validation files here, with --start trains the same jobs again, and lets each model that has come out of it
    answer to its old name. Run it again at any time: it goes on, and nothing is doubled.
    """
    if export is not None and source is not None:
        raise typer.BadParameter("give --export or --from, not both")
    bases = _table(mapping or [])
    folder = Export(source or export or Path("openai-export"))
    try:
        if source is None:
            with _openai(openai_url, openai_key_file) as theirs:
                folder.read(theirs, errors)
        elif not folder.folder.is_dir():
            fail(f"there is no folder {source}")
        if not folder.is_complete:
            errors.print(f"{folder.folder} is of an export that did not end; what is missing there is missing here")
        if export is not None:
            screen.print(f"exported {len(folder.jobs())} jobs and {len(list(folder.files()))} files to {export}")
            return
        with connected(context) as client:
            # the environment's OPENAI_PROJECT_ID and OPENAI_ORG_ID are OpenAI's
            own = {"OpenAI-Organization": omit, "OpenAI-Project": project or omit}
            if (start or alias_bases) and not yes:
                _confirm(bases, folder)
            here = client.with_options(default_headers=own)
            run = Import(here, folder, bases, errors, start=start, alias_bases=alias_bases)
            run.store_files()
            run.name_models()  # of an earlier run's jobs: others may go on from them
            run.start_jobs()
            if wait:
                run.wait()
    except KeyboardInterrupt:
        errors.print("\nInterrupted. What was done is kept: run the same command again to go on.")
        raise typer.Exit(130) from None
    used = {base: bases[base] for base in bases_of(folder.jobs()) if base in bases}
    report = Report(files=list(run.files.values()), bases=used, jobs=run.jobs, aliases=run.aliases)
    if as_json:
        typer.echo(report.to_json(exclude_unset=False))
    else:
        _print(report)


@contextmanager
def _openai(url: str, key_file: Path | None) -> Generator[OpenAI]:
    key = os.environ.get("OPENAI_API_KEY", "")
    if key_file is not None:
        try:
            key = key_file.read_text().strip()
        except OSError as error:
            fail(f"cannot read {key_file} ({error.strerror})")
    if not key:
        fail("no key of OpenAI's: set OPENAI_API_KEY, or name a file that holds it with --openai-key-file")
    with (
        errors_end_the_command(url, "Say where it is with --openai-url, or use a folder exported before with --from."),
        OpenAI(base_url=url, api_key=key, max_retries=PATIENT_RETRIES) as client,
    ):
        yield client


def _confirm(bases: dict[str, str], export: Export) -> None:
    counts = bases_of(export.jobs())
    if counts:
        print_table(
            [BaseLine(openai_base=name, base=bases.get(name), jobs=count) for name, count in counts.items()],
            {
                "OpenAI's base": lambda line: line.openai_base,
                "base here": lambda line: line.base or "none: its jobs are left out",
                "jobs": lambda line: line.jobs,
            },
            errors,
        )
        typer.confirm("Are these the bases to use? (--map changes one)", abort=True, err=True)


def _print(report: Report) -> None:
    print_table(
        report.files,
        {
            "OpenAI's file": lambda file: file.openai_file,
            "name": lambda file: file.filename,
            "file here": lambda file: file.file,
            "": lambda file: file.note,
        },
    )
    screen.print()
    print_table(
        report.jobs,
        {
            "OpenAI's job": lambda job: job.openai_job,
            "base": lambda job: job.base,
            "job here": lambda job: job.job,
            "status": lambda job: job.status,
            "": lambda job: job.note,
        },
    )
    screen.print()
    if report.aliases:
        print_table(
            report.aliases,
            {
                "alias": lambda alias: alias.alias,
                "model here": lambda alias: alias.model,
                "": lambda alias: alias.note,
            },
        )
        screen.print()
    stored = sum(file.file is not None for file in report.files)
    trained = sum(job.model is not None for job in report.jobs)
    pending = [job for job in report.jobs if job.job and job.status not in ("succeeded", "failed", "cancelled")]
    screen.print(
        f"{stored} of {len(report.files)} files are here, {trained} of {len(report.jobs)} jobs have a model here, "
        f"{sum(alias.note is None for alias in report.aliases)} names answer."
    )
    if pending:
        screen.print(f"{len(pending)} jobs are at work here: run this again when they have ended, for their names.")
