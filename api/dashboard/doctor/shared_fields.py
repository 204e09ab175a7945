"""The two choices that most of the doctor's pages have: a base model, and a file to validate with."""

from __future__ import annotations

from api.dashboard.fields import Field, choice_field
from api.dashboard.rest import Json


def model_field(bases: list[Json], chosen: str = "", *, is_needed: bool = False) -> Field:
    """The first base that is ready, unless another is `chosen`."""
    usable = [base["id"] for base in bases if base["status"] != "error"]
    ready = next((base["id"] for base in bases if base["status"] == "ready"), "")
    names = [*([chosen] if chosen and chosen not in usable else []), *usable]
    options = [(name, name) for name in names]
    return choice_field(
        "Base model",
        options if is_needed and options else [("", "None: tokens are not counted"), *options],
        value=chosen or ready,
    )


def validation_field(files: list[Json], of: str, chosen: str = "") -> Field:
    """`of`: the file that is to be validated, which cannot be its own."""
    options = [(file["id"], file["filename"]) for file in files if file["id"] != of]
    if chosen and chosen not in dict(options):
        options.insert(0, (chosen, chosen))  # older than the files that are listed
    return choice_field("Validation file", [("", "None"), *options], value=chosen)
