"""What a job's page shows beside its curves: how far it is, and its checkpoints."""

from __future__ import annotations

import time

from api.dashboard.answers import comparing
from api.dashboard.blocks import card, facts, link, notice, tag, text
from api.dashboard.plan_panel import lasting
from api.dashboard.rest import Json

OVER = ("succeeded", "failed", "cancelled")


def checkpoints_card(job: Json, checkpoints: list[Json], *, may_ask: bool) -> None:
    """`checkpoints`: newest first, as the API lists them."""
    if not checkpoints:
        return
    measured = [one for one in checkpoints if one["metrics"]["full_valid_loss"] is not None]
    best = min(measured, key=lambda one: one["metrics"]["full_valid_loss"])["id"] if measured else None
    models = [str(one["fine_tuned_model_checkpoint"]) for one in checkpoints]
    with card("Checkpoints", note="each is a model that you can ask"):
        with tag("ul", "stack plain-list"):
            for one, model in zip(checkpoints, models, strict=True):
                with tag("li", "stack tight"):
                    words = f"Step {one['step_number']}"
                    if one["metrics"]["full_valid_loss"] is not None:
                        words += f" · validation loss {one['metrics']['full_valid_loss']:.3f}"
                    with tag("div", "row"):
                        text("span", words, "number")
                        if one["id"] == best:
                            text("span", "best", "state good")
                        if may_ask:
                            link(comparing(model, job["model"]), "small", label=f"Try step {one['step_number']}")
                    text("code", model, "small quiet break")
        if may_ask and len(models) > 1:
            with tag("div", "row"):
                link(comparing(*_spread(models)), "button plain", label="Compare checkpoints")


def _spread(models: list[str]) -> list[str]:
    """First, middle and last, in the order in which they were made."""
    oldest_first = models[::-1]
    return list(dict.fromkeys((oldest_first[0], oldest_first[len(models) // 2], oldest_first[-1])))


def progress_card(job: Json) -> None:
    progress, ours = job["attune"]["progress"], job["attune"]
    with card():
        if job["error"] is not None:
            notice(job["error"]["message"], "error")
        if ours["cancel_requested"] and job["status"] not in OVER:
            notice("It is being cancelled: the worker stops within a step.")
        elif ours["pause_requested"] and job["status"] == "running":
            notice("It is being paused: the worker saves where it is.")
        if job["status"] == "succeeded":
            notice(f"Trained, proven and ready to use: {job['fine_tuned_model']}", "good")
        total = progress["total_steps"]
        with tag("div", "row between"):
            text("span", _where(job), "strong number")
            text("span", _time_left(job), "quiet number")
        with tag("div", "progress").props('role="progressbar" aria-label="Steps" aria-valuemin="0"') as bar:
            bar.props["aria-valuenow"] = progress["step"]
            bar.props["aria-valuemax"] = total or 1
            tag("div").style(f"width: {100 * progress['step'] / (total or 1):.2f}%")
        facts(
            [
                ("Base", job["model"]),
                *([] if job["status"] in OVER else [("Worker", ours["worker"] or "none now")]),
                *([("Interrupted", _times(ours["attempts_lost"]))] if ours["attempts_lost"] else []),
                ("Seed", str(job["seed"])),
                ("Id", job["id"]),
            ],
            "by-length",
        )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _where(job: Json) -> str:
    progress = job["attune"]["progress"]
    if job["status"] == "validating_files":
        return "Checking and counting the data"
    if job["status"] == "queued" and not progress["step"]:
        return "Waiting for a worker"
    if progress["total_steps"]:
        return f"Step {progress['step']} of {progress['total_steps']}"
    return "Not started"


def _time_left(job: Json) -> str:
    if job["finished_at"] is not None:
        return f"took {lasting(job['finished_at'] - (job['attune']['started_at'] or job['created_at']))}"
    if job["estimated_finish"] is not None:
        return f"about {lasting(max(1, job['estimated_finish'] - time.time()))} left"
    return ""
