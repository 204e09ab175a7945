"""Watch it learn: what each checkpoint answers to the job's sample prompts, side by side over time."""

from __future__ import annotations

from nicegui import ui

from api.dashboard.blocks import card, tag, text
from api.dashboard.rest import Json


class Samples:
    """Fed with events; stays out of sight until one of them holds a sample."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[int, str]] = {}  # prompt -> step -> answer
        with card("Watch it learn", note="the same prompts at each checkpoint") as self._card:
            self._strip = tag("div", "stack wide-gap")
        self._card.set_visibility(False)

    def take(self, event: Json) -> bool:
        """Whether it was one of these, and is shown here."""
        data = event["data"] or {}
        if "prompt" not in data or "answer" not in data or "step" not in data:
            return False
        prompt = data["prompt"] if isinstance(data["prompt"], str) else str(data["prompt"][-1]["content"])
        self._answers.setdefault(prompt, {})[int(data["step"])] = str(data["answer"])
        self._card.set_visibility(True)
        self._strip.clear()
        with self._strip:
            for asked, answers in self._answers.items():
                _row(asked, answers)
        return True


def _row(prompt: str, answers: dict[int, str]) -> ui.element:
    with tag("div", "stack tight") as row:
        text("p", prompt, "strong")
        with tag("ol", "answers").props('tabindex="0"') as strip:
            strip.props["aria-label"] = f"Answers to: {prompt}"
            for step, answer in sorted(answers.items()):
                with tag("li"):
                    text("span", f"step {step}", "quiet small number")
                    text("p", answer or "(nothing)")
    return row
