"""The body of POST /v1/fine_tuning/jobs: OpenAI's fields, and ours in `attune`.

An unknown top-level key is OpenAI's own affair and only answered with a warning; a field that the server writes
is refused, and inside `attune` everything unknown is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.shapes.job_object import JobObject
from api.shapes.wire import Ours
from core import tracking_address
from core.errors import AttuneError
from core.jobs.intake import Wanted
from core.jobs.jobs import Placement
from core.spec import MAX_SEED, BasicChoices, DpoChoices, FineChoices, Hyperparameters, Method
from core.storable import FileId, MetadataKey, MetadataValue, ModelId, Text

MAX_WARNINGS = 16


class Supervised(Ours):
    hyperparameters: BasicChoices | None = None


class Dpo(Ours):
    hyperparameters: DpoChoices | None = None


class MethodChoice(Ours):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, object] | None = None

    def chosen(self) -> tuple[Method, BasicChoices | None]:
        """Raises AttuneError where the method is not offered, or choices of another one are given beside it."""
        if self.type == "reinforcement":
            raise AttuneError(
                "The method 'reinforcement' is not offered here. Use 'supervised' with examples of the answers you "
                "want, or 'dpo' with pairs of a better and a worse answer.",
                code="unsupported_method",
                param="method.type",
            )
        for name in ("supervised", "dpo", "reinforcement"):
            if name != self.type and getattr(self, name) is not None:
                raise AttuneError(
                    f"The method is '{self.type}', but 'method.{name}' is given; leave it out, or change "
                    "'method.type'.",
                    code="contradicting_method",
                    param=f"method.{name}",
                )
        own = self.dpo if self.type == "dpo" else self.supervised
        return Method(self.type), own.hyperparameters if own else None


class WandbChoice(Ours):
    project: Annotated[Text, StringConstraints(min_length=1, max_length=128)]
    name: Annotated[Text, StringConstraints(max_length=128)] | None = None
    entity: Annotated[Text, StringConstraints(max_length=128)] | None = None
    tags: Annotated[list[Annotated[Text, StringConstraints(max_length=64)]], Field(max_length=32)] | None = None


class Integration(Ours):
    type: Literal["wandb"]
    wandb: WandbChoice


class MlflowChoice(Ours):
    tracking_uri: Annotated[Text, StringConstraints(min_length=1, max_length=tracking_address.MAX_URI)] | None = None
    experiment: Annotated[Text, StringConstraints(min_length=1, max_length=250)] | None = None
    run_name: Annotated[Text, StringConstraints(min_length=1, max_length=250)] | None = None


class MlflowIntegration(Ours):
    type: Literal["mlflow"]
    mlflow: MlflowChoice = MlflowChoice()


class TensorboardIntegration(Ours):
    """An event file among the job's result files."""

    type: Literal["tensorboard"]


OurIntegration = Annotated[MlflowIntegration | TensorboardIntegration, Field(discriminator="type")]


class AttuneChoices(FineChoices):
    """Ours, beside what `core.spec.FineChoices` lists."""

    integrations: Annotated[list[OurIntegration], Field(max_length=5)] | None = None
    dry_run: Annotated[bool, Field(strict=True)] = False  # answer with the plan, and make no job
    priority: Annotated[int, Field(ge=-100, le=100, strict=True)] = 0  # higher first
    label: Annotated[Text, StringConstraints(min_length=1, max_length=64)] | None = None  # of the worker it needs
    max_duration_s: Annotated[float, Field(gt=0, le=30 * 24 * 3600, strict=True)] | None = None  # of training


class CreateJob(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    model: ModelId
    training_file: FileId
    validation_file: FileId | None = None
    hyperparameters: BasicChoices | None = None
    method: MethodChoice | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)] | None = None
    suffix: Annotated[Text, StringConstraints(min_length=1, max_length=64)] | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    attune: AttuneChoices | None = None

    def wanted(self, mlflow_allow: str) -> Wanted:
        """Raises AttuneError for what the form alone cannot tell. `mlflow_allow`: the servers that may be named."""
        unknown = sorted(self.model_extra or {})
        for name in unknown:
            if name in SERVER_WRITES:
                raise AttuneError(
                    f"'{name}' is written by the server; leave it out.", code="read_only_parameter", param=name
                )
        warnings = [f"ignored field {_shown(name)}" for name in unknown[:MAX_WARNINGS]]
        ours = self.attune or AttuneChoices()
        method, newer = self.method.chosen() if self.method else (Method.SUPERVISED, None)
        for one in ours.integrations or ():
            if isinstance(one, MlflowIntegration) and one.mlflow.tracking_uri is not None:
                tracking_address.check(one.mlflow.tracking_uri, mlflow_allow)
        fine = {name: getattr(ours, name) for name in FineChoices.model_fields}
        return Wanted(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method=method,
            hyperparameters=Hyperparameters(**self._merged(newer), **fine),
            seed=self.seed,
            suffix=self.suffix,
            request={
                **self.model_dump(mode="json", include={"hyperparameters", "method", "integrations"}),
                "attune_integrations": ours.model_dump(mode="json", include={"integrations"})["integrations"],
            },
            metadata=self.metadata,
            placement=Placement(ours.priority, ours.label, ours.max_duration_s),
            warnings=warnings,
        )

    def _merged(self, newer: BasicChoices | None) -> dict[str, object]:
        """What is chosen in `method` and in the older place; both may be given where they agree."""
        older = self.hyperparameters
        given = {} if newer is None else newer.model_dump(exclude_unset=True)
        before = {} if older is None else older.model_dump(exclude_unset=True)
        for name in before.keys() & given.keys():
            if before[name] != given[name]:
                raise AttuneError(
                    f"{name} is {before[name]} in 'hyperparameters' and {given[name]} in 'method'; give it once, "
                    "in 'method'.",
                    code="contradicting_hyperparameters",
                    param=f"hyperparameters.{name}",
                )
        return {**before, **given}


# Rows have some that no object shows; nobody sets them from outside either
_OF_ROWS = ("attempt", "epoch", "lease_until", "owner", "owner_id", "project_id", "started_at", "worker_id")
SERVER_WRITES = frozenset((*JobObject.model_fields, *_OF_ROWS)) - frozenset(CreateJob.model_fields)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "…")
