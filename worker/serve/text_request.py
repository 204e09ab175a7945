"""The body of POST /v1/completions, the older route: one plain prompt, without a chat template."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from worker.serve.generation_request import GenerationRequest

MAX_TOKENS = 16  # OpenAI's default on this route


class TextRequest(GenerationRequest):
    REFUSED: ClassVar[dict[str, str]] = {
        "echo": "the prompt is not repeated, nor given log-probabilities",
        "suffix": "nothing is inserted before a suffix",
    }

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = Field()
    best_of: int | None = Field(None, ge=1, le=20)
    logprobs: int | None = Field(None, ge=0, le=5)

    @model_validator(mode="before")
    @classmethod
    def _one_prompt(cls, body: object) -> object:
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if isinstance(prompt, list) and (len(prompt) != 1 or not isinstance(prompt[0], str)):
            raise ValueError("prompt: give one string; for several prompts, send several requests")
        return body

    @model_validator(mode="after")
    def _all_answers_are_given(self) -> TextRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of: answers are not ranked here; ask for n of them and choose")
        return self

    @property
    def prompt_text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
