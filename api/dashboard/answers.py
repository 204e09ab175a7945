"""One column of a comparison: a model, what was said to it, and its answer as it is generated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from nicegui import background_tasks, ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.blocks import button, notice, tag, text
from api.dashboard.fields import choice_field, slider_field
from api.dashboard.rest import Json, Refused, Rest, SignedOut, in_path
from api.dashboard.visit import leave_for_sign_in

DRAW_S = 0.08  # between two drawings of an answer that is still growing
STRENGTHS = tuple((f"{tenths / 10:g}", f"{tenths / 10:.1f}x") for tenths in range(21))  # that servers of ours take
AS_TRAINED = "1"


def comparing(*models: str) -> str:
    """The path of the page that has these side by side."""
    return "/compare?" + "&".join(f"models={in_path(model)}" for model in models)


class Unfit(ValueError):
    """A setting that cannot be sent; the text says what can."""


@dataclass(frozen=True)
class Options:
    """What every model is asked with."""

    system: str
    temperature: float
    max_tokens: int
    seed: int | None

    @staticmethod
    def read(system: str, temperature: str, max_tokens: str, seed: str) -> Options:
        """From what was typed. Raises Unfit."""
        try:
            warmth = float(temperature.replace(",", ".") or "0")
        except ValueError:
            warmth = -1.0
        if not 0 <= warmth <= 2:
            raise Unfit("Temperature is a number from 0 to 2.")
        if not max_tokens.strip().isdecimal() or int(max_tokens) < 1:
            raise Unfit("Most tokens is a whole number, 1 or more.")
        if seed.strip() and not seed.strip().removeprefix("-").isdecimal():
            raise Unfit("Seed is a whole number, or empty.")
        return Options(system.strip(), warmth, int(max_tokens), int(seed) if seed.strip() else None)

    def body(self, model: str, strength: str, messages: list[Json]) -> Json:
        """`strength`: of the model's adapter, one of STRENGTHS."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        body: Json = {
            "model": model,
            "messages": [*first, *messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if strength != AS_TRAINED:
            body["attune"] = {"adapter_scale": float(strength)}
        return body if self.seed is None else body | {"seed": self.seed}


class Column:
    def __init__(
        self,
        rest: Rest,
        models: list[Json],
        model: str,
        on_settled: Callable[[], None],
        on_close: Callable[[Column], None],
    ) -> None:
        self._rest = rest
        self._messages: list[Json] = []
        self._adapted = {one["id"] for one in models if one["attune"]["kind"] != "base"}
        self._strength = AS_TRAINED
        self._task: asyncio.Task[None] | None = None
        self._on_settled = on_settled
        with tag("section", "card chat") as self._place:
            with tag("div", "chat-head"):
                names = [(one["id"], one["id"]) for one in models]
                self._choice = choice_field("Model", names, value=model, on_change=self._choose)
                self._closing = button("Close", lambda: on_close(self), kind="text")
            self._strength_place = tag("div", "strength")
            self._talk = tag("div", "talk").props('role="log" tabindex="0"')
            self._talk.props["aria-label"] = "Conversation"
        self._choose()
        ui.context.client.on_delete(self.stop)

    @property
    def model(self) -> str:
        return self._choice.value

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    def _choose(self) -> None:
        self.clear()
        self._strength = AS_TRAINED
        self._strength_place.clear()
        with self._strength_place:
            if self.model in self._adapted:
                slider_field("Adapter strength", STRENGTHS, value=AS_TRAINED, on_change=self._set_strength)
            else:
                text("span", "A base: it has no adapter.", "quiet small")

    def _set_strength(self, strength: str) -> None:
        self._strength = strength

    def may_close(self, may: bool) -> None:
        self._closing.set_visibility(may)

    def ask(self, prompt: str, options: Options) -> None:
        if not self._messages:
            self._talk.clear()
        self._messages.append({"role": "user", "content": prompt})
        with self._talk:
            text("p", prompt, "said by-you")
            answer = text("p", "", "said by-model waiting")
            count = text("span", "", "quiet small number")
        body = options.body(self.model, self._strength if self.model in self._adapted else AS_TRAINED, self._messages)
        self._task = background_tasks.create(self._answer(answer, count, body), name=f"ask {self.model}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def clear(self) -> None:
        self.stop()
        self._messages = []
        self._talk.clear()
        with self._talk:
            text("p", "Its answers appear here.", "quiet")

    def remove(self) -> None:
        self.stop()
        self._place.delete()

    async def _answer(self, answer: TextElement, count: TextElement, body: Json) -> None:
        """Also what has come when it is stopped stays, and is a part of the conversation."""
        said, tokens, started, drawn = "", 0, time.monotonic(), 0.0
        ending = ""
        messages = self._messages
        try:
            async for chunk in self._rest.chat(body):
                for choice in chunk.get("choices", []):
                    said += choice["delta"].get("content") or ""
                    ending = {"length": "cut at the most tokens"}.get(choice.get("finish_reason") or "", ending)
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                if time.monotonic() - drawn > DRAW_S:
                    answer.text, drawn = said, time.monotonic()
        except asyncio.CancelledError:
            ending = "stopped"
        except SignedOut:
            with self._talk:
                leave_for_sign_in()
        except Refused as refused:
            ending = "refused"
            if not answer.is_deleted:
                with self._talk:
                    notice(refused.message, "error")
        finally:
            if said:
                messages.append({"role": "assistant", "content": said})
            else:
                messages.pop()  # what was not answered was not said
            self._task = None
            if not answer.is_deleted:
                answer.text = said or ("" if ending else "(nothing)")
                answer.set_visibility(bool(answer.text))
                answer.classes(remove="waiting")
                passed = time.monotonic() - started
                words = [f"{tokens} tokens"] if tokens else []
                if "attune" in body:
                    words.append(f"at {body['attune']['adapter_scale']:g}x")
                count.text = " · ".join([*words, f"{passed:.1f} s", *([ending] if ending else [])])
            if not self._place.is_deleted:
                self._on_settled()
