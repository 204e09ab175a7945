"""`attune train FILE --model …`: upload the examples, create the job, and with --watch follow it to its end."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from openai import BaseModel, OpenAI, omit
from openai.types import FileObject

from cli.connection import connected, errors, fail, screen
from cli.jobs import watch_to_the_end
from cli.show import AsJson, print_json

SHOWN_FINDINGS = 20
_Examples = typer.Option(exists=True, dir_okay=False, readable=True)


class MethodName(StrEnum):
    SUPERVISED = "supervised"
    DPO = "dpo"


class Finding(BaseModel):
    """What is wrong with one line of a file."""

    line: int
    message: str
    field: str | None = None
    severity: str = "error"


class Checked(BaseModel):
    """What the service adds to a file's object."""

    findings: list[Finding] | None = None


def train(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="JSONL of examples.")],
    model: Annotated[str, typer.Option(help="A base model of the catalog, or a fine-tuned one to go on with.")],
    validation: Annotated[Path | None, _Examples] = None,
    suffix: Annotated[str | None, typer.Option(help="Becomes a part of the new model's id.")] = None,
    method: Annotated[MethodName, typer.Option(help="dpo learns from preference pairs.")] = MethodName.SUPERVISED,
    beta: Annotated[float | None, typer.Option(help="Of dpo: how firmly it is held to the start, up to 2.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in an optimizer step.")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Of the model's base rate.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    scale: Annotated[float | None, typer.Option(help="LoRA scale: what B·A is multiplied with.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds and data give equal runs.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    label: Annotated[str | None, typer.Option(help="Of the worker that it needs.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA adapter on a file of examples. What is not given is chosen by the service, with reasons."""
    hyperparameters = _given(
        n_epochs=epochs, batch_size=batch_size, learning_rate_multiplier=learning_rate_multiplier, beta=beta
    )
    ours = _given(lora=_given(rank=rank, scale=scale) or None, priority=priority, label=label)
    with connected(context) as client:
        training_file = _upload(client, file)
        validation_file = _upload(client, validation) if validation else None
        job = client.fine_tuning.jobs.create(
            model=model,
            training_file=training_file.id,
            validation_file=validation_file.id if validation_file else None,
            suffix=suffix if suffix is not None else omit,
            seed=seed if seed is not None else omit,
            extra_body=_given(
                # through extra_body, so that the service and not a client's idea of its types judges the values
                method={"type": method, method: {"hyperparameters": hyperparameters}},
                attune=ours or None,
            ),
        )
        if as_json:
            print_json(job)
        else:
            screen.print(f"{job.id} {job.status}")
        if watch:
            watch_to_the_end(client, job.id)
        if not as_json:
            errors.print(f"follow it with: attune jobs watch {job.id}", soft_wrap=True)


def _given(**choices: object) -> dict[str, object]:
    """Only what was chosen: the rest is the service's to choose."""
    return {name: value for name, value in choices.items() if value is not None}


def _upload(client: OpenAI, path: Path) -> FileObject:
    """Upload a file of examples. Ends the command with its findings if the service has any."""
    uploaded = client.files.create(file=path, purpose="fine-tune")
    ours = (uploaded.model_extra or {}).get("attune")
    findings = Checked.model_validate(ours).findings if ours else None
    for finding in (findings or [])[:SHOWN_FINDINGS]:
        where = f"{path}:{finding.line}" + (f" {finding.field}" if finding.field else "")
        errors.print(f"{where}: {finding.severity}: {finding.message}", markup=False, soft_wrap=True)
    if uploaded.status == "error":
        fail(f"{path} cannot be trained on: {uploaded.status_details}")
    return uploaded
