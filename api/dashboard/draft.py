"""A job as a person is about to ask for it, and the request that comes of it. What is left alone is left out.

`settings` holds what was chosen, by the names of `SETTINGS`; the service chooses the rest, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from api.dashboard.rest import Json

Stops = list[tuple[str, str]]  # values, in order, and how each is shown
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Unreadable(ValueError):
    """What was typed is no value of its setting; the text says what is."""


@dataclass(frozen=True)
class Setting:
    """One choice: what it does and when to touch it. `place`: where it stands in a job's request.

    `options`: values and words to choose from; else a number is typed, which `read` understands. `is_slider`: the
    values are in order, and moving among them shows at once what each does to the plan.
    """

    name: str
    label: str
    help: str
    place: tuple[str, ...]
    read: Callable[[str], object]
    options: tuple[tuple[str, str], ...] = ()
    is_slider: bool = False

    def stops(self, now: str) -> Stops:
        """The options, and among them what stands there now, should that be another number."""
        if now in ("", *(value for value, _ in self.options)):
            return list(self.options)
        return sorted([*self.options, (now, now)], key=lambda stop: float(stop[0]))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.strip().isdecimal() or not least <= int(text) <= most:
            raise Unreadable(f"A whole number from {least} to {most}.")
        return int(text)

    return read


def _fraction(above: float, most: float, *, from_zero: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text.strip().lower().removesuffix("x").replace(",", "."))
        except ValueError:
            value = float("nan")
        if not (above <= value if from_zero else above < value) or not value <= most:
            raise Unreadable(f"A number {'from' if from_zero else 'above'} {above:g} to {most:g}.")
        return value

    return read


def _layers(text: str) -> object:
    return ATTENTION if text == "attention" else "all-linear"


_METHOD = ("method", "supervised", "hyperparameters")
SETTINGS = (
    Setting(
        "rank",
        "Rank",
        "How much the adapter can learn. 16 is enough for most tasks; go up for large or contrary data, down for "
        "tiny models.",
        ("attune", "lora", "rank"),
        _whole(1, 512),
        tuple((str(rank), str(rank)) for rank in (4, 8, 16, 32, 64, 128, 256)),
        is_slider=True,
    ),
    Setting(
        "scale",
        "Scale",
        "How loudly the adapter speaks over the base. Raise it if the model hardly changes; halve it if it forgets "
        "what it knew.",
        ("attune", "lora", "scale"),
        _fraction(0, 64),
        (("0.5", "0.5x"), ("1", "1x"), ("2", "2x"), ("4", "4x"), ("8", "8x")),
        is_slider=True,
    ),
    Setting(
        "dropout",
        "Dropout",
        "Hides a share of the adapter at each step, against learning by heart. Try 0.05 to 0.1 when validation loss "
        "turns upwards.",
        ("attune", "lora", "dropout"),
        _fraction(0, 0.9, from_zero=True),
        (("0", "0"), ("0.05", "0.05"), ("0.1", "0.1")),
    ),
    Setting(
        "layers",
        "Layers",
        "Where the adapter sits. All linear layers learn best; attention alone makes a smaller file.",
        ("attune", "lora", "target_modules"),
        _layers,
        (("all", "All linear layers"), ("attention", "Attention only")),
    ),
    Setting(
        "learning_rate",
        "Learning rate",
        "Times the rate found right for the base's size. Lower it if the loss jumps, raise it if it hardly falls.",
        (*_METHOD, "learning_rate_multiplier"),
        _fraction(0, 100),
        (("0.3", "0.3x"), ("0.5", "0.5x"), ("1", "1x"), ("2", "2x")),
    ),
    Setting(
        "epochs",
        "Epochs",
        "How often every example is read. Fewer for large data, more for very few examples.",
        (*_METHOD, "n_epochs"),
        _whole(1, 50),
    ),
    Setting(
        "batch",
        "Batch size",
        "Examples per step. Small learns from fewer examples; large is steadier.",
        (*_METHOD, "batch_size"),
        _whole(1, 256),
    ),
    Setting(
        "length",
        "Longest example",
        "In tokens, up to what the base reads; memory follows it. To go below your longest example, choose first what "
        "becomes of longer ones.",
        ("attune", "max_example_tokens"),
        _whole(8, 1_048_576),
        is_slider=True,
    ),
    Setting(
        "too_long",
        "Longer examples",
        "What becomes of them. Left alone, the first one stops the job, and the error names its line. No answer is "
        "ever cut.",
        ("attune", "too_long"),
        str,
        (("drop", "Leave them out"), ("truncate", "Cut their prompts")),
    ),
    Setting(
        "quantization",
        "Quantisation",
        "How the base is held while training: 4 bit needs a quarter of the memory and costs no measurable quality.",
        ("attune", "quantization"),
        str,
        (("nf4", "4 bit (NF4)"), ("none", "16 bit")),
    ),
    Setting(
        "seed",
        "Seed",
        "The same data, choices and seed give the same model. Left alone, one is drawn and shown with the job.",
        ("seed",),
        _whole(0, 2_147_483_647),
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

# Each: label, what it is for, and what it sets
PRESETS: dict[str, tuple[str, str, dict[str, str]]] = {
    "quick": ("Quick look", "One pass with a small adapter: is the data any good?", {"epochs": "1", "rank": "8"}),
    "balanced": ("Balanced", "The service chooses from your data. Right for most.", {}),
    "careful": (
        "Careful",
        "A gentle rate, more passes and some dropout: for few examples.",
        {"epochs": "5", "learning_rate": "0.5", "dropout": "0.05"},
    ),
}


@dataclass
class Draft:
    """`settings`: by name, as typed or chosen; a name that is missing is left to the service."""

    model: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    name: str = ""
    prompts: list[str] = field(default_factory=list[str])  # answered at each checkpoint
    settings: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def is_whole(self) -> bool:
        return self.model is not None and self.training_file is not None

    def request(self) -> Json:
        """The body of POST /v1/fine_tuning/jobs. Raises Unreadable for a setting that cannot be sent."""
        body: Json = {"model": self.model, "training_file": self.training_file}
        if self.validation_file:
            body["validation_file"] = self.validation_file
        if self.name.strip():
            body["suffix"] = self.name.strip()
        for name, typed in self.settings.items():
            setting = BY_NAME[name]
            _put(body, setting.place, setting.read(typed))
        if self.prompts:
            _put(body, ("attune", "sample_prompts"), list(self.prompts))
        if "method" in body:
            body["method"]["type"] = "supervised"
        return body

    def alpha(self) -> str:
        """What follows from rank and scale, in PEFT's words."""
        try:
            rank = BY_NAME["rank"].read(self.settings.get("rank", "16"))
            scale = BY_NAME["scale"].read(self.settings.get("scale", "2"))
        except Unreadable:
            return ""
        assert isinstance(rank, int)
        assert isinstance(scale, float)
        chosen = "" if {"rank", "scale"} <= self.settings.keys() else ", if the service's usual choice stands"
        return f"alpha = scale × rank = {scale * rank:g}{chosen}"


def _put(body: Json, place: tuple[str, ...], value: object) -> None:
    for step in place[:-1]:
        body = body.setdefault(step, {})
    body[place[-1]] = value


def from_job(job: Json) -> Draft:
    """A draft that asks for the same as a job did."""
    asked: Mapping[str, object] = job["attune"]["requested"]
    lora = job["attune"]["requested"]["lora"]
    given = {
        "rank": lora["rank"],
        "scale": lora["scale"],
        "dropout": lora["dropout"],
        "layers": "attention" if lora["target_modules"] == ATTENTION else "auto",
        "learning_rate": asked["learning_rate_multiplier"],
        "epochs": asked["n_epochs"],
        "batch": asked["batch_size"],
        "length": asked["max_example_tokens"],
        "too_long": "auto" if asked["too_long"] == "error" else asked["too_long"],
        "quantization": asked["quantization"],
        "seed": job["seed"],
    }
    return Draft(
        model=job["model"],
        training_file=job["training_file"],
        validation_file=job["validation_file"],
        name=job["user_provided_suffix"] or "",
        prompts=[_asked(prompt) for prompt in job["attune"]["requested"]["sample_prompts"]],
        settings={
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in given.items()
            if value != "auto"
        },
    )


def _asked(prompt: str | list[Json]) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
