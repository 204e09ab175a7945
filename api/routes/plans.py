"""POST /v1/attune/plans: what a job will cost, for a slider that moves. Stored counts in, a plan out; no job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from api.parts import Caller, Within
from api.shapes.job_request import AttuneChoices, CreateJob, MethodChoice
from api.shapes.wire import Ours
from core.errors import AttuneError
from core.planning import dry_run
from core.planning.data_counts import DataCounts
from core.planning.dry_run import Given, PlanObject
from core.spec import BasicChoices
from core.storable import FileId, ModelId

router = APIRouter(prefix="/v1/attune/plans", tags=["attune"])
RETRY_S = 1
_Count = Annotated[int, Field(ge=1, le=10**12, strict=True)]


class Counts(Ours):
    """Of a file that is not uploaded yet."""

    examples: _Count
    tokens: _Count
    supervised_tokens: _Count
    longest_tokens: _Count

    def data(self) -> DataCounts:
        return DataCounts(self.examples, self.tokens, self.supervised_tokens, self.longest_tokens)


class AskPlan(Ours):
    """The fields of a job's request that a plan depends on; counts may stand in place of files."""

    model: ModelId
    training_file: FileId | None = None
    validation_file: FileId | None = None
    training_counts: Counts | None = None
    validation_counts: Counts | None = None
    hyperparameters: BasicChoices | None = None
    method: MethodChoice | None = None
    attune: AttuneChoices | None = None

    def request(self) -> CreateJob:
        """Raises AttuneError where neither file nor counts are given, or both."""
        if (self.training_file is None) == (self.training_counts is None):
            raise AttuneError(
                "Give either training_file or training_counts.", code="missing_training_file", param="training_file"
            )
        if self.validation_counts is not None and self.training_counts is None:
            raise AttuneError(
                "validation_counts go with training_counts; name the validation_file, or give both as counts.",
                code="contradicting_choices",
                param="validation_counts",
            )
        if self.validation_file is not None and self.training_file is None:
            raise AttuneError(
                "validation_file goes with training_file; give validation_counts, or name both files.",
                code="contradicting_choices",
                param="validation_file",
            )
        counted = "(counts)"  # stands for a file, and is never looked for
        return CreateJob(
            model=self.model,
            training_file=self.training_file or counted,
            validation_file=self.validation_file or (counted if self.validation_counts else None),
            hyperparameters=self.hyperparameters,
            method=self.method,
            attune=self.attune,
        )


@router.post("", responses={202: {"model": PlanObject}})
def make_plan(body: AskPlan, caller: Caller, parts: Within, response: Response) -> PlanObject:
    wanted = body.request().wanted(parts.settings.mlflow_allow)
    with parts.database.begin() as session:
        if body.training_counts is None:
            found = dry_run.of_files(session, caller.project_id, wanted)
        else:
            validation = None if body.validation_counts is None else body.validation_counts.data()
            given = Given(body.training_counts.data(), validation)
            found = dry_run.of_counts(session, caller.project_id, wanted, given)
    return answer(found, parts, response)


def answer(found: PlanObject, parts: Within, response: Response) -> PlanObject:
    """200, or 202 while the files are being counted."""
    if found.status == "preparing":
        parts.poke()
        response.status_code = 202
        response.headers["Retry-After"] = str(RETRY_S)
    return found
