"""`attune jobs`: list, show, watch, cancel, pause and resume jobs, and read their logs."""

from __future__ import annotations

import itertools
from typing import Annotated, NoReturn

import typer
from openai import BaseModel, OpenAI
from openai.types.fine_tuning import FineTuningJob

from cli.connection import connected, errors, screen
from cli.follow import follow
from cli.show import AsJson, print_fields, print_json, print_table, when

app = typer.Typer(no_args_is_help=True, help="List, show, watch, cancel, pause and resume jobs; read their logs.")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job: ftjob-…")]


class Progress(BaseModel):
    step: int
    total_steps: int | None = None


class Report(BaseModel):
    step: int  # whose weights are the result
    validation_perplexity: float | None = None
    perplexities: dict[str, float | None] | None = None  # by how the base is held


class JobDetails(BaseModel):
    """What the service adds to OpenAI's job object, so far as it is shown here."""

    progress: Progress | None = None
    reasons: dict[str, str] | None = None  # hyperparameter -> why it has its value
    worker: str | None = None
    report: Report | None = None


@app.command("list")
def list_jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    with connected(context) as client:
        jobs = list(itertools.islice(client.fine_tuning.jobs.list(limit=min(limit, 100)), limit))
    if as_json:
        print_json(jobs)
        return
    print_table(
        jobs,
        {
            "job": lambda job: job.id,
            "status": lambda job: job.status,
            "model": lambda job: job.model,
            "made": lambda job: when(job.created_at),
            "fine-tuned model": lambda job: job.fine_tuned_model,
        },
    )


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Everything about one job."""
    with connected(context) as client:
        job = client.fine_tuning.jobs.retrieve(job_id)
    if as_json:
        print_json(job)
    else:
        print_job(job)


@app.command()
def watch(context: typer.Context, job_id: JobId) -> None:
    """Follow a job to its end. Exit code 0 if it succeeded, else 1."""
    with connected(context) as client:
        watch_to_the_end(client, job_id)


@app.command()
def cancel(context: typer.Context, job_id: JobId) -> None:
    """End a job for good."""
    with connected(context) as client:
        _say_status(client.fine_tuning.jobs.cancel(job_id), "it ends at its next step")


@app.command()
def pause(context: typer.Context, job_id: JobId) -> None:
    """Stop a job so that it can go on later from where it was."""
    with connected(context) as client:
        _say_status(client.fine_tuning.jobs.pause(job_id), "it pauses at its next step")


@app.command()
def resume(context: typer.Context, job_id: JobId) -> None:
    """Put a paused job back into the queue."""
    with connected(context) as client:
        _say_status(client.fine_tuning.jobs.resume(job_id), None)


@app.command()
def logs(context: typer.Context, job_id: JobId) -> None:
    """Print what the engine wrote while it ran the job."""
    with connected(context) as client:
        typer.echo(client.get(f"/attune/fine_tuning/jobs/{job_id}/log", cast_to=str), nl=False)


def watch_to_the_end(client: OpenAI, job_id: str) -> NoReturn:
    """Show progress until the job ends, then leave with the exit code of its outcome."""
    try:
        job = follow(client, job_id, screen)
    except KeyboardInterrupt:
        errors.print(f"\nThe job goes on. Watch it again with: attune jobs watch {job_id}", soft_wrap=True)
        raise typer.Exit(130) from None
    if job.status != "succeeded":
        reason = job.error.message if job.error and job.error.message else None
        errors.print(f"{job.id} {job.status}" + (f": {reason}" if reason else ""), markup=False, soft_wrap=True)
        raise typer.Exit(1)
    screen.print(f"fine-tuned model: {job.fine_tuned_model}", markup=False, soft_wrap=True)
    raise typer.Exit(0)


def _results(report: Report | None) -> dict[str, object]:
    if report is None:
        return {}
    perplexity = report.validation_perplexity
    shown: dict[str, object] = {
        "weights of step": report.step,
        "validation perplexity": None if perplexity is None else f"{perplexity:.4g}",
    }
    for held, value in (report.perplexities or {}).items():
        shown[f"perplexity, {held}"] = "not enough memory" if value is None else f"{value:.4g}"
    return shown


def print_job(job: FineTuningJob) -> None:
    dpo = job.method.dpo if job.method else None
    chosen = dpo.hyperparameters if dpo and dpo.hyperparameters else job.hyperparameters
    error = job.error
    details = JobDetails.model_validate((job.model_extra or {}).get("attune", {}))
    progress = details.progress
    print_fields(
        {
            "job": job.id,
            "status": job.status,
            "model": job.model,
            "fine-tuned model": job.fine_tuned_model,
            "steps": f"{progress.step} of {progress.total_steps}" if progress and progress.total_steps else None,
            "worker": details.worker,
            **_results(details.report),
            "training file": job.training_file,
            "validation file": job.validation_file,
            "epochs": chosen.n_epochs,
            "batch size": chosen.batch_size,
            "learning rate x": chosen.learning_rate_multiplier,
            "beta": dpo.hyperparameters.beta if dpo and dpo.hyperparameters else None,
            "seed": job.seed,
            "trained tokens": job.trained_tokens,
            "made": when(job.created_at),
            "estimated end": when(job.estimated_finish),
            "ended": when(job.finished_at),
            "error": error.message if error else None,
        }
    )
    if details.reasons:
        screen.print("\nchosen because", style="bold")
        print_fields(details.reasons)


def _say_status(job: FineTuningJob, if_running: str | None) -> None:
    note = f" ({if_running})" if if_running and job.status == "running" else ""
    screen.print(f"{job.id} {job.status}{note}")
