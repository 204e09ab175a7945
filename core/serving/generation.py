"""How much may be asked of a model, and what never: held here, whichever server is to generate.

A server of another make may take templates and expressions of a client's own; a template can read what it should not,
and an expression can be made to take for ever.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.errors import AttuneError
from core.storable import ModelId

MAX_TOKENS = 2**20  # beyond any context
_REFUSED = (
    "chat_template",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "guided_regex",
    "guided_grammar",
    "structured_outputs",
)
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)]
Stop = Annotated[str, StringConstraints(max_length=1024)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False, strict=True)]

Bias = Annotated[float, Field(ge=-100, le=100, strict=True)]
AdapterScale = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, strict=True)]


class GenerationAttune(BaseModel):
    """What of a question OpenAI has no field for. `adapter_scale`: how strongly a fine-tuned model's adapter speaks,
    in multiples of the scale that it was trained with; 0 is the bare base, 1 the model itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter_scale: AdapterScale | None = None


class Generation(BaseModel):
    """What /v1/chat/completions and /v1/completions share. Every other field goes to the server as it came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: ModelId
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=128, strict=True)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    attune: GenerationAttune | None = None

    @property
    def adapter_scale(self) -> float | None:
        """None: as it was trained."""
        return None if self.attune is None else self.attune.adapter_scale

    def check_fields(self) -> None:
        """Raises the 400 of a field that is not passed on to any server."""
        for name in _REFUSED:
            if (self.model_extra or {}).get(name) is not None:
                raise AttuneError(
                    f"'{name}' is not taken: templates come from the catalog alone, and answers are held to a form by "
                    "'response_format' and 'tools'. Leave it out.",
                    code="unsupported_parameter",
                    param=name,
                )
