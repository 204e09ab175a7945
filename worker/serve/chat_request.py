"""The body of POST /v1/chat/completions: what is honoured, what is ignored because it changes no answer, and what
is refused because ignoring it would change one. Messages are read by the renderer, as training reads them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from worker.serve.generation_request import GenerationRequest

_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128


class JsonSchema(BaseModel):
    """`strict`: a schema with a keyword that cannot be enforced is refused; without it, the keyword is passed over."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)
    name: str = Field(pattern=_NAME)
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
    name: str = Field(pattern=_NAME)
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


class ChatRequest(GenerationRequest):
    REFUSED: ClassVar[dict[str, str]] = {
        "functions": "functions are deprecated; use tools",
        "function_call": "functions are deprecated; use tools and tool_choice",
        "audio": "answers are text",
        "web_search_options": "this server searches nothing",
    }

    messages: list[dict[str, JsonValue]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    # As they came: the template writes what training wrote, keys that nobody knows included
    tools: Annotated[list[dict[str, JsonValue]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    # A model has no levels of these; the default asks for nothing
    reasoning_effort: Literal["none", "medium"] | None = None
    verbosity: Literal["medium"] | None = None

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
    def _logprobs_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: set logprobs to true as well")
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
