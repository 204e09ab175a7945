"""The body of POST /v1/completions, the older route: one plain prompt, without a chat template."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.generation import GenerationAttune
from worker.serve.request import LogitBias, Stop, StreamOptions

MAX_TOKENS = 16  # OpenAI's default on this route
# Null, false and empty values of these are as good as absent
REFUSED = {
    "echo": "the prompt is not repeated, nor given log-probabilities",
    "suffix": "nothing is inserted before a suffix",
}


class TextRequest(BaseModel):
    """OpenAI's fields in OpenAI's bounds. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=512)
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = Field()
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    best_of: int | None = Field(None, ge=1, le=20)
    stop: Stop = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: int | None = Field(None, ge=0, le=5)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    attune: GenerationAttune | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        if isinstance(body, dict):
            for name, reason in REFUSED.items():
                if body.get(name):
                    raise ValueError(f"{name}: {reason}; remove the field")
            prompt = body.get("prompt")
            if isinstance(prompt, list) and (len(prompt) != 1 or not isinstance(prompt[0], str)):
                raise ValueError("prompt: give one string; for several prompts, send several requests")
        return body

    @model_validator(mode="after")
    def _together(self) -> TextRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of: answers are not ranked here; ask for n of them and choose")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        return self

    @property
    def prompt_text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
