"""The body of POST /v1/fine_tuning/jobs: OpenAI's fields, and ours in `attune`.

An unknown top-level key is OpenAI's own affair and only answered with a warning; a field that the server writes
is refused, and inside `attune` everything unknown is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.job_object import JobObject
from api.wire import ModelId, Ours, Text
from core.errors import AttuneError
from core.intake import Wanted
from core.jobs import Placement
from core.spec import MAX_SEED, BasicChoices, FineChoices, Hyperparameters

MAX_WARNINGS = 16
FileId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MetadataKey = Annotated[Text, StringConstraints(max_length=64)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]


class Supervised(Ours):
    hyperparameters: BasicChoices | None = None


class MethodChoice(Ours):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: dict[str, object] | None = None
    reinforcement: dict[str, object] | None = None


class WandbChoice(Ours):
    project: Annotated[Text, StringConstraints(min_length=1, max_length=128)]
    name: Annotated[Text, StringConstraints(max_length=128)] | None = None
    entity: Annotated[Text, StringConstraints(max_length=128)] | None = None
    tags: Annotated[list[Annotated[Text, StringConstraints(max_length=64)]], Field(max_length=32)] | None = None


class Integration(Ours):
    type: Literal["wandb"]
    wandb: WandbChoice


class AttuneChoices(FineChoices):
    """Ours, beside what `core.spec.FineChoices` lists."""

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

    def wanted(self) -> Wanted:
        """Raises AttuneError for what the form alone cannot tell."""
        unknown = sorted(self.model_extra or {})
        for name in unknown:
            if name in SERVER_WRITES:
                raise AttuneError(
                    f"'{name}' is written by the server; leave it out.", code="read_only_parameter", param=name
                )
        warnings = [f"ignored field {_shown(name)}" for name in unknown[:MAX_WARNINGS]]
        ours = self.attune or AttuneChoices()
        fine = {name: getattr(ours, name) for name in FineChoices.model_fields}
        return Wanted(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            hyperparameters=Hyperparameters(**self._basic().model_dump(), **fine),
            seed=self.seed,
            suffix=self.suffix,
            request=self.model_dump(mode="json", include={"hyperparameters", "method", "integrations"}),
            metadata=self.metadata,
            placement=Placement(ours.priority, ours.label, ours.max_duration_s),
            warnings=warnings,
        )

    def _basic(self) -> BasicChoices:
        """OpenAI's three, from `method` or from their older place; both may be given if they agree."""
        if self.method is not None and self.method.type != "supervised":
            raise AttuneError(
                f"The method '{self.method.type}' is not offered here; use 'supervised'.",
                code="unsupported_method",
                param="method.type",
            )
        newer = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        older = self.hyperparameters
        if newer is not None and older is not None:
            for name in older.model_fields_set & newer.model_fields_set:
                if getattr(older, name) != getattr(newer, name):
                    raise AttuneError(
                        f"{name} is {getattr(older, name)} in 'hyperparameters' and {getattr(newer, name)} in "
                        "'method'; give it once, in 'method'.",
                        code="contradicting_hyperparameters",
                        param=f"hyperparameters.{name}",
                    )
            return BasicChoices(**{**older.model_dump(exclude_unset=True), **newer.model_dump(exclude_unset=True)})
        return newer or older or BasicChoices()


# Rows have some that no object shows; nobody sets them from outside either
_OF_ROWS = ("attempt", "epoch", "lease_until", "owner", "owner_id", "project_id", "started_at", "worker_id")
SERVER_WRITES = frozenset((*JobObject.model_fields, *_OF_ROWS)) - frozenset(CreateJob.model_fields)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "…")
