"""Between which lengths an example's limit may be chosen: the plan refuses no stop of that slider.

It ends at what the base reads. It begins at the longest example of the data, which a plan has told, unless it is chosen
what becomes of longer ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from api.dashboard.draft import Draft, Stops
from api.dashboard.rest import Json

USUAL = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)  # tokens


class LengthBounds:
    def __init__(self, draft: Draft, bases: Iterable[Json]) -> None:
        self._draft = draft
        self._bases: dict[str | None, str] = {}  # of models that training goes on from
        self._contexts: dict[str | None, int | None] = {}
        self._longest: dict[tuple[str | None, ...], int] = {}
        self.know(bases)

    def know(self, bases: Iterable[Json]) -> None:
        self._contexts = {base["id"]: base["context_tokens"] for base in bases}

    def learn(self, plan: Json) -> bool:
        """From the plan of the draft as it stands. False where `know` has to be told of a base that was fetched."""
        self._bases[self._draft.model] = plan["base_model"]
        files = [counts for counts in (plan["training"], plan["validation"]) if counts is not None]
        if not any(counts["dropped"] or counts["truncated"] for counts in files):
            self._longest[self._data] = max(counts["longest_tokens"] for counts in files)
        return self.ends[1] is not None

    @property
    def ends(self) -> tuple[int, int | None]:
        """(least, most); None while nobody knows what the base reads."""
        draft = self._draft
        least = 0 if "too_long" in draft.settings else self._longest.get(self._data, 0)
        return least, self._contexts.get(self._bases.get(draft.model) or draft.model)

    def stops(self) -> Stops:
        """Of the slider as it should be now, what is chosen among them; a choice beyond its ends is moved to one."""
        least, most = self.ends
        sizes = {size for size in (*USUAL, most) if size and least <= size <= (most or size)}
        chosen = self._draft.settings.get("length", "")
        if chosen.isdecimal():
            raised = max(int(chosen), least)
            chosen = self._draft.settings["length"] = str(raised if most is None else min(raised, most))
            sizes.add(int(chosen))
        return [(str(size), f"{size:,}") for size in sorted(sizes)]

    @property
    def _data(self) -> tuple[str | None, ...]:
        return (self._draft.model, self._draft.training_file, self._draft.validation_file)
