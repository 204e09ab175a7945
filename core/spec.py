"""What a user may choose and what a job is frozen to: hyperparameters with bounds, the JobSpec, the resolved run.

All values are in the unit their name says; every choice may be "auto", and `core.planning.plan` resolves an auto with
a reason in words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.storable import storable

Auto = Literal["auto"]
MAX_SEED = 2_147_483_647
MAX_SAMPLE_CHARACTERS = 16_000
MAX_LEARNING_RATE = 5e-3  # above it training diverges on every base we know; refused at create


class Frozen(BaseModel):
    """Immutable, and strict about its keys: a misspelt field is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantization(StrEnum):
    """How the frozen base's linear layers are held: in 4 bit (NF4 or FP4, arXiv 2305.14314), in 8 bit (LLM.int8(),
    arXiv 2208.07339), or as they are computed with, in 16 or 32 bit."""

    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"
    NONE = "none"

    @property
    def is_4bit(self) -> bool:
        return self in (Quantization.NF4, Quantization.FP4)


class Training(StrEnum):
    """lora: a low-rank change beside frozen weights. full: every weight itself, the yardstick for small bases."""

    LORA = "lora"
    FULL = "full"


class TooLong(StrEnum):
    """What becomes of an example longer than `max_example_tokens`: an error that names its line, left out and
    counted, or its prompt cut from the left and counted. An answer is never cut."""

    ERROR = "error"
    DROP = "drop"
    TRUNCATE = "truncate"


class Schedule(StrEnum):
    """The learning rate after its warm-up: falls on a line to zero, falls on half a cosine, or stays."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Method(StrEnum):
    """supervised: learn the answers given. dpo: learn which of two answers is preferred (arXiv 2305.18290)."""

    SUPERVISED = "supervised"
    DPO = "dpo"


class LoraChoice(Frozen):
    """LoRA as a user may choose it. `scale` multiplies B·A directly; `alpha` = scale · rank is accepted instead
    (scale · sqrt(rank) with `rslora`)."""

    rank: Annotated[int, Field(ge=1, le=512, strict=True)] | Auto = "auto"
    scale: Annotated[float, Field(gt=0, le=64, strict=True)] | Auto = "auto"
    alpha: Annotated[float, Field(gt=0, le=32768, strict=True)] | None = None
    dropout: Annotated[float, Field(ge=0, le=0.9, strict=True)] | Auto = "auto"
    rslora: Annotated[bool, Field(strict=True)] = False  # alpha = scale * sqrt(rank), arXiv 2312.03732
    target_modules: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.]+$")]],
            Field(min_length=1, max_length=32),
        ]
        | Literal["all-linear"]
    ) = "all-linear"

    @model_validator(mode="after")
    def _scale_or_alpha(self) -> LoraChoice:
        if self.alpha is not None and self.scale != "auto":
            divisor = "sqrt(rank)" if self.rslora else "rank"
            raise ValueError(f"give scale or alpha, not both: alpha = scale * {divisor}")
        return self


class BasicChoices(Frozen):
    """OpenAI's three. Strict: "3", 3.5 and true are no number of epochs."""

    n_epochs: Annotated[int, Field(ge=1, le=50, strict=True)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256, strict=True)] | Auto = "auto"  # examples per optimizer step
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1e6, strict=True)] | Auto = "auto"


class DpoChoices(BasicChoices):
    """And the one that direct preference optimisation has beside them."""

    beta: Annotated[float, Field(gt=0, le=2, strict=True)] | Auto = "auto"  # how firmly it is held to the start


PromptText = Annotated[str, Field(min_length=1, max_length=8_000, strict=True), AfterValidator(storable)]


class SampleMessage(Frozen):
    """A message of a sample prompt; text alone."""

    role: Literal["system", "developer", "user", "assistant"]
    content: PromptText


# A text is asked in the form of the training file's first example: as a user's message, or as a plain prompt
SamplePrompt = PromptText | Annotated[list[SampleMessage], Field(min_length=1, max_length=32)]


def _short_enough(prompts: list[SamplePrompt]) -> list[SamplePrompt]:
    """Every answer about a job repeats them."""
    texts = [[one] if isinstance(one, str) else [message.content for message in one] for one in prompts]
    characters = sum(len(text) for part in texts for text in part)
    if characters > MAX_SAMPLE_CHARACTERS:
        raise ValueError(f"the prompts have {characters} characters in all; {MAX_SAMPLE_CHARACTERS} are taken at most")
    return prompts


class FineChoices(Frozen):
    """What may be chosen beyond OpenAI's three."""

    training: Training = Training.LORA
    lora: LoraChoice = LoraChoice()
    quantization: Quantization | Auto = "auto"
    double_quantization: Annotated[bool, Field(strict=True)] | Auto = "auto"  # of a 4-bit base's scales
    max_example_tokens: Annotated[int, Field(ge=8, le=1_048_576, strict=True)] | Auto = "auto"
    too_long: TooLong = TooLong.ERROR
    max_steps: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | Auto = "auto"  # in place of n_epochs
    schedule: Schedule | Auto = "auto"
    warmup_fraction: Annotated[float, Field(ge=0, le=0.5, strict=True)] | Auto = "auto"
    max_grad_norm: Annotated[float, Field(gt=0, le=1000, strict=True)] | Auto = "auto"
    weight_decay: Annotated[float, Field(ge=0, le=1, strict=True)] | Auto = "auto"
    validation_every_steps: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | Auto = "auto"
    # Validations in a row without a gain after which training ends; the best of all is then the result
    early_stopping_patience: Annotated[int, Field(ge=1, le=1_000, strict=True)] | None = None
    sample_prompts: Annotated[
        list[SamplePrompt], Field(max_length=8), AfterValidator(_short_enough)
    ] = []  # answered at each checkpoint
    compare_quantizations: Annotated[bool, Field(strict=True)] = False  # perplexity over 16, 8 and 4 bit at the end


class Hyperparameters(DpoChoices, FineChoices):
    """Every training choice, each of which may be "auto". `beta` is read by the method dpo alone."""


class LoraSettings(Frozen):
    """LoRA as it is trained. `scale` multiplies B·A; PEFT's lora_alpha is scale · rank, or scale · sqrt(rank)."""

    rank: int = Field(ge=1, le=512)
    scale: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    rslora: bool = False
    # "all-linear" or module-name endings such as "q_proj"; the engine expands and sorts them
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class Resolved(Frozen):
    """The numbers a run is made with: no auto left. With seed, data and base it determines the adapter."""

    method: Method = Method.SUPERVISED
    beta: float | None = None  # of dpo
    n_epochs: int
    batch_size: int  # examples per optimizer step; a preference pair is one
    learning_rate_multiplier: float
    learning_rate: float  # absolute peak rate = multiplier * base rate
    training: Training = Training.LORA
    lora: LoraSettings | None  # None where every weight is trained
    quantization: Quantization
    double_quantization: bool = True  # of a 4-bit base's scales
    max_example_tokens: int
    too_long: TooLong = TooLong.ERROR
    schedule: Schedule = Schedule.LINEAR
    warmup_steps: int
    total_steps: int  # optimizer steps
    max_grad_norm: float
    weight_decay: float
    validation_every_steps: int
    checkpoint_every_steps: int
    early_stopping_patience: int | None = None
    sample_prompts: tuple[SamplePrompt, ...] = ()
    compare_quantizations: bool = False


class Execution(Frozen):
    """Choices of the machine, fixed at the first claim and kept by every later attempt so that a resumed run
    is the uninterrupted run."""

    precision: Literal["bfloat16", "float32"]  # of the base's compute
    micro_tokens: int = Field(ge=8)  # token budget of one packed micro-step
    threads: int = Field(ge=1)  # CPU threads of the engine
    dequantised: bool = False  # 4-bit weights are turned into `precision` once and kept so; the numbers are the same
    checkpointing: bool = False  # activations are recomputed in the backward pass, layer by layer


class ShownHyperparameters(Frozen):
    """OpenAI's three, as a job echoes them."""

    batch_size: int | Auto
    learning_rate_multiplier: float | Auto
    n_epochs: int | Auto


class ShownDpoHyperparameters(ShownHyperparameters):
    beta: float | Auto


class JobSpec(Frozen):
    """What a job was asked to be: frozen at create."""

    base_model: str  # catalog id
    start_model: str | None = None  # a fine-tuned model or checkpoint to continue from
    training_file: str
    validation_file: str | None = None
    method: Method = Method.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    seed: int = Field(ge=0, le=MAX_SEED)
