"""What the bodies of /v1/chat/completions and /v1/completions have in common, and how either is read."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import AttuneError
from core.serving.generation import GenerationAttune


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


def _not_empty(stop: str | list[str] | None) -> str | list[str] | None:
    if stop == "" or (isinstance(stop, list) and "" in stop):
        raise ValueError("a stop string must not be empty")
    return stop


def _token_ids(bias: dict[str, float] | None) -> dict[str, float] | None:
    if bias is not None and not all(key.isdecimal() for key in bias):
        raise ValueError("the keys must be token ids")
    return bias


Stop = Annotated[str | Annotated[list[str], Field(max_length=4)] | None, AfterValidator(_not_empty)]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, AfterValidator(_token_ids)]


class GenerationRequest(BaseModel):
    """OpenAI's fields in OpenAI's bounds. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    # Fields that would change an answer, and why they cannot; null, false and empty values are as good as absent
    REFUSED: ClassVar[dict[str, str]] = {}

    model: str = Field(min_length=1, max_length=512)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: Stop = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
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
            for name, reason in cls.REFUSED.items():
                if body.get(name):
                    raise ValueError(f"{name}: {reason}; remove the field")
        return body

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


# What pydantic calls the arms of a union
_ARMS = frozenset(
    (
        "str",
        "list[constrained-str]",
        "list[dict[str,json-or-python]]",
        "ToolChoice",
        "literal['none','auto','required']",
    )
)


Asked = TypeVar("Asked", bound=GenerationRequest)


def parse_request(kind: type[Asked], body: bytes) -> Asked:
    """Raises AttuneError that names the field and what is wrong with it."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise AttuneError(f"The body is no JSON: {first['msg']}", code="invalid_json") from error
        message = first["msg"].removeprefix("Value error, ")
        path = [str(part) for part in first["loc"] if part not in _ARMS]
        param = ".".join(path) or (message.split(":", 1)[0] if ": " in message else None)
        if path:
            message = f"Invalid value for '{param}': {message}"
        raise AttuneError(message, code="invalid_value", param=param) from error
