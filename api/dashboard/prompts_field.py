"""Prompts to watch: what the model is asked at each checkpoint, so that one can see it learn."""

from __future__ import annotations

from collections.abc import Callable

from api.dashboard.draft import Draft
from api.dashboard.fields import Field, FollowingField, text_field

MOST = 8  # that the service takes
HELP = f"One a line, up to {MOST}. The model answers them at each checkpoint, and you see it learn."


class PromptsField:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._field = FollowingField(_make, self._typed)

    def show(self) -> None:
        """Take over what the draft has, such as the sample data's prompts."""
        self._field.show("\n".join(self._draft.prompts))

    def _typed(self, words: str) -> str:
        lines = [line.strip() for line in words.splitlines()]
        self._draft.prompts = [line for line in lines if line]
        return "\n".join(self._draft.prompts)


def _make(value: str, on_change: Callable[[], None]) -> Field:
    label = "Prompts to watch (optional)"
    return text_field(label, value=value, help=HELP, attributes='rows="3"', on_change=on_change, element="textarea")
