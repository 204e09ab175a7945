"""What a job may be made of: every check that create can make from rows alone, before anything is written.

What only shows in the data (too few examples, nothing to learn, too long) is for preparation to find.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from core import ids
from core.access import projects, quotas, tenancy
from core.bases import catalog
from core.bases.model_shape import shape_of
from core.errors import AttuneError, Unavailable
from core.files import files
from core.jobs import jobs
from core.jobs.choices import check_choices
from core.jobs.jobs import NewJob, Placement
from core.models import BaseModelRow, File, Job, Model, Project
from core.planning.learning_rate import base_learning_rate
from core.serving import aliases, published
from core.spec import MAX_LEARNING_RATE, MAX_SEED, Hyperparameters, JobSpec, LoraSettings, Method, Resolved, Training


@dataclass(frozen=True)
class Wanted:
    """A request that has the right form. `request` is kept for the echo."""

    model: str
    training_file: str
    validation_file: str | None
    method: Method
    hyperparameters: Hyperparameters
    seed: int | None
    suffix: str | None
    request: dict[str, Any]
    metadata: dict[str, str] | None
    placement: Placement
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Checked:
    """What a request comes to after every check that rows allow."""

    base: BaseModelRow
    start: Model | None
    training: File
    validation: File | None
    hyperparameters: Hyperparameters


# What most jobs are made of, in one look: a file and a base in a project without limits, both locked as below. Where
# one of them is missing nothing is found, and the looks for each say what.
_USUAL = (
    select(File, BaseModelRow)
    .select_from(Project)
    .join(File, File.project_id == Project.id)
    .join(BaseModelRow, BaseModelRow.id == bindparam("model"))
    .where(Project.id == bindparam("project_id"), Project.erased_at.is_(None), *projects.UNLIMITED)
    .where(File.id == bindparam("training_file"), *files.STILL_THERE)
    .where(BaseModelRow.removed_at.is_(None), BaseModelRow.id.not_like(f"{ids.FINE_TUNED}%"))
    .with_for_update(read=True, of=(Project, File))
)


def accept(session: Session, project_id: str, several: Sequence[Wanted]) -> list[Job | AttuneError]:
    """A new job of the project for each, or the error that names the field in the way, or QuotaReached.

    Raises Unavailable, and then there is none of them.
    """
    found: list[Job | AttuneError | None] = [None] * len(several)
    new: dict[int, NewJob] = {}  # by their place among `several`

    def write() -> None:
        for place, job in zip(new, jobs.create(session, list(new.values())), strict=True):
            found[place] = job
        new.clear()

    looked: dict[tuple[str, str], tuple[File, BaseModelRow] | None] = {}  # who creates many, often names the same
    for place, wanted in enumerate(several):
        named = (wanted.training_file, wanted.model)
        if named not in looked:
            looked[named] = _usual(session, project_id, wanted)
        try:
            if (usual := looked[named]) is not None:
                checked = check(session, project_id, wanted, training=usual[0], base=usual[1])
            else:
                write()  # what counts towards a limit has to be there to be counted
                project = projects.lock_for_one_more(session, project_id)
                checked = check(session, project_id, wanted)
                quotas.check_jobs(session, project)
                quotas.check_bytes(session, project)
        except Unavailable:
            raise
        except AttuneError as error:
            found[place] = error
        else:
            new[place] = _new(project_id, wanted, checked)
    write()
    return [one for one in found if one is not None]


def _usual(session: Session, project_id: str, wanted: Wanted) -> tuple[File, BaseModelRow] | None:
    asked = {"project_id": project_id, "training_file": wanted.training_file, "model": wanted.model}
    row = session.execute(_USUAL, asked).one_or_none()
    return None if row is None else (row[0], row[1])


def _new(project_id: str, wanted: Wanted, checked: Checked) -> NewJob:
    base, start = checked.base, checked.start
    warnings = list(wanted.warnings)
    if wanted.validation_file == wanted.training_file:
        warnings.append("The validation file is the training file, so validation will not show overfitting")
    spec = JobSpec(
        base_model=base.id,
        start_model=start.id if start else None,
        training_file=wanted.training_file,
        validation_file=wanted.validation_file,
        method=wanted.method,
        hyperparameters=checked.hyperparameters,
        seed=secrets.randbelow(MAX_SEED + 1) if wanted.seed is None else wanted.seed,
    )
    return jobs.new(
        project_id=project_id,
        spec=spec,
        model=start.id if start else base.id,  # what an alias may have stood for
        suffix=wanted.suffix,
        request=wanted.request,
        metadata=wanted.metadata,
        placement=wanted.placement,
        warnings=warnings,
    )


def check(
    session: Session,
    project_id: str,
    wanted: Wanted,
    *,
    training: File | None = None,
    base: BaseModelRow | None = None,
) -> Checked:
    """Raises AttuneError naming the field that stands in the way. Quotas are for who makes a job.

    `training`, `base`: what `wanted` names, where it has been found already.
    """
    base, start, hyperparameters = check_model(session, project_id, wanted, base)
    if training is None:
        training = files.for_job(session, project_id, wanted.training_file, "training_file", wanted.method)
    else:
        files.must_train(training, "training_file", wanted.method)
    validation = None
    if wanted.validation_file is not None:
        validation = files.for_job(session, project_id, wanted.validation_file, "validation_file", wanted.method)
    return Checked(base, start, training, validation, hyperparameters)


def check_model(
    session: Session, project_id: str, wanted: Wanted, base: BaseModelRow | None = None
) -> tuple[BaseModelRow, Model | None, Hyperparameters]:
    """(the base, the model that training continues from, the choices that follow)"""
    start = None
    if base is None:
        model = aliases.resolve(session, project_id, wanted.model)
        start = published.find(session, project_id, model, lock=True)
        base = catalog.find(session, start.base_model if start else model)
    if base.status == "error":
        raise AttuneError(
            f"The base model '{base.id}' cannot be used: {base.error}", code="base_model_unusable", param="model"
        )
    hyperparameters = wanted.hyperparameters
    check_choices(hyperparameters, wanted.method, has_validation=wanted.validation_file is not None)
    if start is not None:
        hyperparameters = _continued(session, start, hyperparameters)
    _check_learning_rate(base, hyperparameters, wanted.method)
    return base, start, hyperparameters


def _check_learning_rate(base: BaseModelRow, hyper: Hyperparameters, method: Method) -> None:
    """Refused here when the base's size is known; else preparation, which learns it, fails the job."""
    if hyper.learning_rate_multiplier == "auto" or base.shape is None:
        return
    base_rate = base_learning_rate(shape_of(base.shape, base.parameters), method, hyper.training)
    rate = hyper.learning_rate_multiplier * base_rate
    if rate > MAX_LEARNING_RATE:
        raise AttuneError(
            f"learning_rate_multiplier {hyper.learning_rate_multiplier:g} times the base rate {base_rate:g} of "
            f"'{base.id}' is {rate:g}, above {MAX_LEARNING_RATE:g}, where training diverges; give at most "
            f"{MAX_LEARNING_RATE / base_rate:.3g}.",
            code="invalid_learning_rate",
            param="hyperparameters.learning_rate_multiplier",
        )


def _continued(session: Session, start: Model, hyper: Hyperparameters) -> Hyperparameters:
    """Training goes on in the adapter that there is: its rank, scale and modules are settled."""
    with tenancy.across(session):  # a model that is shared was made by its owner's job
        resolved = session.get_one(Job, start.job_id).resolved
    assert resolved is not None, "a model's job was prepared"
    settings = Resolved.model_validate(resolved).lora
    if settings is None:
        raise AttuneError(
            f"'{start.id}' is a whole model and no adapter. Download it, put its folder below the models directory and "
            "add it to the catalog; then it can be trained as a base.",
            code="start_model_mismatch",
            param="model",
        )
    if hyper.training is Training.FULL:
        raise AttuneError(
            f"'{start.id}' is an adapter, and full training trains none; name its base, '{start.base_model}', or leave "
            "training out.",
            code="start_model_mismatch",
            param="attune.training",
        )
    lora = hyper.lora
    divisor = math.sqrt(settings.rank) if settings.rslora else settings.rank
    chosen_scale = lora.alpha / divisor if lora.alpha is not None else lora.scale
    _must_equal("rank", lora.rank, settings.rank, start.id)
    if lora.rslora:
        _must_equal("rslora", True, settings.rslora, start.id)
    _must_equal("scale", chosen_scale, settings.scale, start.id)
    modules = _modules(settings)
    if lora.target_modules != "all-linear":
        _must_equal("target_modules", sorted(lora.target_modules), modules, start.id)
    kept = lora.model_copy(
        update={
            "rank": settings.rank,
            "scale": settings.scale,
            "alpha": None,
            "rslora": settings.rslora,
            "target_modules": modules,
        }
    )
    return hyper.model_copy(update={"lora": kept})


def _modules(settings: LoraSettings) -> Any:
    return "all-linear" if settings.target_modules == "all-linear" else sorted(settings.target_modules)


def _must_equal(name: str, chosen: object, found: object, model: str) -> None:
    if chosen not in ("auto", found):
        raise AttuneError(
            f"'{model}' was trained with {name} {found}, and training goes on with it; leave {name} out.",
            code="start_model_mismatch",
            param=f"attune.lora.{name}",
        )
