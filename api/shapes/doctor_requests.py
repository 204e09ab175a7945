"""What the dataset doctor is asked for. `request` is what its task keeps and shows, defaults filled in."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import Field, StringConstraints

from api.shapes.wire import Ours
from core.doctor.orders import Format, Reading, RepairName, Shape
from core.errors import AttuneError
from core.spec import MAX_SEED
from core.storable import ModelId, Name, Text

Request: TypeAlias = dict[str, Any]
FileId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MaxTokens = Annotated[int, Field(ge=1, le=10_000_000)]
FileName = Annotated[Text, StringConstraints(min_length=1, max_length=255)]


class MappingForm(Ours):
    shape: Shape
    columns: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=256)]]
    system_text: Annotated[Text, Field(max_length=100_000)] | None = None


class ReadingForm(Ours):
    file_id: FileId
    format: Format | None = None
    encoding: Annotated[Text, StringConstraints(min_length=1, max_length=40)] | None = None
    delimiter: Literal[",", ";", "\t", "|", ":"] | None = None
    sheet: Name | None = None
    mapping: MappingForm | None = None

    def reading(self) -> Reading:
        fields = ("format", "encoding", "delimiter", "sheet", "mapping")
        return msgspec.convert(self.model_dump(include=set(fields)), Reading)


class ConversionCreate(ReadingForm):
    filename: FileName | None = None
    limit: Annotated[int, Field(ge=1, le=50)] = 10  # of the preview; a conversion takes all

    def request(self) -> Request:
        """As the task keeps it: what was sent, and the reading it comes to."""
        return {**self.model_dump(exclude={"limit"}), "reading": msgspec.to_builtins(self.reading())}


class ReportCreate(Ours):
    file_id: FileId
    validation_file_id: FileId | None = None
    model: ModelId | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    max_tokens: MaxTokens | None = None

    def request(self) -> Request:
        return self.model_dump()


class RepairCreate(Ours):
    file_id: FileId
    repairs: Annotated[list[RepairName], Field(min_length=1, max_length=14)]
    dry_run: bool = True
    model: ModelId | None = None
    max_tokens: MaxTokens | None = None
    validation_file_id: FileId | None = None
    filename: FileName | None = None

    def request(self) -> Request:
        """Raises AttuneError (model_needed, missing_required_parameter)."""
        if "drop_too_long" in self.repairs and self.model is None:
            message = "What is too long depends on the model: name it, or leave drop_too_long out."
            raise AttuneError(message, code="model_needed", param="model")
        if "drop_validation_overlap" in self.repairs and self.validation_file_id is None:
            raise AttuneError(
                "Missing required parameter: 'validation_file_id'.",
                code="missing_required_parameter",
                param="validation_file_id",
            )
        return self.model_dump()


class SplitCreate(Ours):
    file_id: FileId
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 42

    def request(self) -> Request:
        return self.model_dump()


Order: TypeAlias = ConversionCreate | ReportCreate | RepairCreate | SplitCreate
