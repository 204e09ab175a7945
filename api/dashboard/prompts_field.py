"""Prompts to watch: what the model is asked at each checkpoint, so that one can see it learn."""

from __future__ import annotations

from typing import Any

from api.dashboard.blocks import tag, text
from api.dashboard.draft import Draft

MOST = 8  # that the service takes


class PromptsField:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        with tag("div", "field"):
            text("label", "Prompts to watch (optional)").props('for="prompts"')
            self._area = tag("textarea").props('id="prompts" rows="3" aria-describedby="prompts-help"')
            self._area.on("change", self._typed, js_handler="(e) => emit(e.target.value)")
            help_ = f"One a line, up to {MOST}. The model answers them at each checkpoint, and you see it learn."
            text("span", help_, "help").props('id="prompts-help"')

    def show(self) -> None:
        """Take over what the draft has, such as the sample data's prompts."""
        self._area.props["value"] = "\n".join(self._draft.prompts)

    def _typed(self, event: Any) -> None:
        lines = [line.strip() for line in str(event.args).splitlines()]
        self._draft.prompts = [line for line in lines if line][:MOST]
