"""Graders, tried out before anything is graded with them: is it one, and what does it make of this answer?"""

from __future__ import annotations

import time
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.parts import Caller
from api.shapes.wire import Shown
from core.grading import graders

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["graders"])
MAX_SAMPLE_CHARS = 200_000


class ValidateRequest(BaseModel):
    model_config = ConfigDict(frozen=True)

    grader: dict[str, JsonValue]


class RunRequest(ValidateRequest):
    model_sample: Annotated[str, Field(max_length=MAX_SAMPLE_CHARS)]
    item: JsonValue = None


class Validated(Shown):
    grader: dict[str, JsonValue]


class GraderErrors(Shown):
    """OpenAI's fourteen; those of models and of Python cannot be here."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class GraderMetadata(Shown):
    name: str
    type: str
    errors: GraderErrors
    execution_time: float  # seconds
    scores: dict[str, float]
    token_usage: int | None = None
    sampled_model_name: str | None = None


class GraderRun(Shown):
    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]


@router.post("/validate")
async def validate_grader(body: ValidateRequest, caller: Caller) -> Validated:
    graders.check(graders.read_grader(body.grader))
    return Validated(grader=body.grader)


@router.post("/run")
async def run_grader(body: RunRequest, caller: Caller) -> GraderRun:
    """What goes wrong on this one answer is a flag beside a reward of 0, not a failure of the call."""
    grader = graders.read_grader(body.grader)
    begun = time.perf_counter()
    grade = await to_thread.run_sync(graders.run, grader, body.model_sample, body.item)
    metadata = GraderMetadata(
        name=grader.name,
        type=str(body.grader["type"]),
        errors=GraderErrors(**dict.fromkeys(grade.errors, True)),
        execution_time=time.perf_counter() - begun,
        scores=grade.sub_rewards or {grader.name: grade.reward},
    )
    return GraderRun(
        reward=grade.reward, metadata=metadata, sub_rewards=grade.sub_rewards, model_grader_token_usage_per_model={}
    )
