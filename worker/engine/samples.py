"""Answers a job's sample prompts with the weights in training, as the server would: greedily, and bounded.

Nothing of the run moves: no random number is drawn, and no layer is repacked (`model.load_base` sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from core.data.conversation import Conversation, PreferencePair
from core.data.examples import iter_examples
from core.protocol import Sample
from core.rendering.render import Renderer
from core.rendering.sample_prompts import ANSWER_TOKENS, prompt_ids
from core.spec import SamplePrompt
from worker.engine.generate import Generator, Sampling
from worker.engine.lora import LoraModules


class Sampler:
    """Of one run. `modules` is None where every weight is trained."""

    def __init__(
        self,
        model: PreTrainedModel,
        modules: LoraModules | None,
        renderer: Renderer,
        prompts: Sequence[SamplePrompt],
        training: Path,
    ) -> None:
        self._prompts = prompts
        self._renderer = renderer
        self._adapter = None if modules is None else modules.active
        self._generator = Generator(model, renderer, modules)
        _, first = next(iter(iter_examples(training)))
        self._as_chat = isinstance(first, Conversation | PreferencePair)

    def answers(self) -> tuple[Sample, ...]:
        return tuple(Sample(prompt=prompt, answer=self._answer(prompt)) for prompt in self._prompts)

    def _answer(self, prompt: SamplePrompt) -> str:
        ids = prompt_ids(self._renderer, prompt, as_chat=self._as_chat)
        room = self._generator.context_tokens - len(ids)
        sampling = Sampling(max_tokens=max(1, min(ANSWER_TOKENS, room)), temperature=0.0, seed=0)
        generation = self._generator.begin(ids, sampling, self._adapter)
        text = ""
        while not generation.done:
            text += "".join(delta.text for delta in self._generator.step(generation))
        return text
