"""The body of POST /v1/chat/completions: what is honoured, what is ignored because it changes no answer, and what
is refused because ignoring it would change one. Messages are read by the renderer, as training reads them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from core.errors import AttuneError
from core.generation import GenerationAttune

# Null, false and empty values of these are as good as absent
REFUSED = {
    "functions": "functions are deprecated; use tools",
    "function_call": "functions are deprecated; use tools and tool_choice",
    "audio": "answers are text",
    "web_search_options": "this server searches nothing",
}
_FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class JsonSchema(BaseModel):
    """`strict`: a schema with a keyword that cannot be enforced is refused; without it, the keyword is passed over."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    definition: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("give json_schema, with its name and its schema")
        return self


class Function(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str = Field(pattern=_FUNCTION_NAME)
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["function"]
    function: Function


class ChosenFunction(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str


class ToolChoice(BaseModel):
    """The one function to call."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function"]
    function: ChosenFunction


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


def stop_strings(stop: Stop) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


class ChatRequest(BaseModel):
    """OpenAI's fields in OpenAI's bounds. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=512)
    messages: list[dict[str, JsonValue]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: Stop = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # As they came: the template writes what training wrote, keys that nobody knows included
    tools: Annotated[list[dict[str, JsonValue]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    # A model has no levels of these; the default asks for nothing
    reasoning_effort: Literal["none", "medium"] | None = None
    verbosity: Literal["medium"] | None = None
    attune: GenerationAttune | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        if isinstance(body, dict):
            for name, reason in REFUSED.items():
                if body.get(name):
                    raise ValueError(f"{name}: {reason}; remove the field")
        return body

    @field_validator("tools")
    @classmethod
    def _functions(cls, value: list[dict[str, JsonValue]] | None) -> list[dict[str, JsonValue]] | None:
        names: set[str] = set()
        for index, tool in enumerate(value or []):
            try:
                names.add(Tool.model_validate(tool).function.name)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(str(step) for step in first["loc"])
                raise ValueError(f"[{index}].{where}: {first['msg']}") from None
        if len(names) < len(value or []):
            raise ValueError("two functions have the same name")
        return value

    @model_validator(mode="after")
    def _tools_together(self) -> ChatRequest:
        if self.tool_choice is not None and self.tool_choice != "none" and not self.tools:
            raise ValueError("tool_choice: only allowed when tools are given")
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in self.functions:
            raise ValueError(f"tool_choice: no function of tools has the name {self.tool_choice.function.name!r}")
        formatted = self.response_format is not None and self.response_format.type != "text"
        if formatted and self.offered_tools:
            raise ValueError("response_format: not together with tools; set tool_choice to none, or leave one out")
        return self

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: set logprobs to true as well")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        return self

    @property
    def functions(self) -> dict[str, Function]:
        """The functions of `tools` by name."""
        functions = [Tool.model_validate(tool).function for tool in self.tools or []]
        return {function.name: function for function in functions}

    @property
    def offered_tools(self) -> list[dict[str, JsonValue]]:
        """What the model gets to see: with tool_choice none, nothing that it could call."""
        return [] if self.tool_choice == "none" else list(self.tools or [])


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


Asked = TypeVar("Asked", bound=BaseModel)


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
