"""Generates text step by step: every live request has its own KV cache and moves by one step in its turn, so
that a scheduler can interleave requests of different adapters over one base.

Letters: S live sequences of a request, T tokens, V vocabulary.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel

from core.errors import AttuneError, Unavailable
from core.rendering.render import Renderer
from worker.engine.adapter import StoredAdapter, read_adapter
from worker.engine.answer import Answer, FinishReason, TokenLogprob
from worker.engine.constrain import Constraint, Grammar, Vocabulary
from worker.engine.lora import LoraModules

PREFILL_TOKENS = 512  # of a prompt in one step, so that a long prompt does not hold the others up
_GREEDY_BELOW = 1e-5  # temperature


@dataclass(frozen=True)
class Sampling:
    """How a request wants its answers. The penalties are OpenAI's: subtracted from a token's logit, once per
    occurrence in the answer so far (frequency) or once if it occurred at all (presence).
    """

    max_tokens: int | None = None  # None: as many as the context holds
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None  # rivals shown per token; None: no log-probabilities
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to its logit)


@dataclass(frozen=True)
class Delta:
    """What one step added to answer `index`."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None


@dataclass
class _Sequence:
    index: int
    answer: Answer
    random: torch.Generator
    constraint: Constraint | None


@dataclass
class Generation:
    """A request in the making: `step` it until `done`. Dropping it frees its cache."""

    prompt_ids: list[int]
    adapter: str | None
    sampling: Sampling
    sequences: list[_Sequence]
    cache: DynamicCache
    adapter_scale: float = 1.0  # over the scale that the adapter was trained with
    live: list[_Sequence] = field(default_factory=list)  # row by row of the cache
    prefilled: int = 0

    @property
    def done(self) -> bool:
        return not self.live

    @property
    def completion_tokens(self) -> int:
        """Tokens sampled so far over all answers, the stop tokens too."""
        return sum(sequence.answer.sampled_tokens for sequence in self.sequences)


@dataclass(frozen=True)
class ServableAdapter:
    """An adapter read and checked, ready to be put on its base."""

    stored: StoredAdapter
    renderer: Renderer


def read_servable(folder: Path) -> ServableAdapter:
    """Read a published adapter with its frozen template and tokenizer; the only way into serving.

    Raises AttuneError (adapter_unreadable) for a file that is missing, cut short or not of this adapter.
    """
    stored = read_adapter(folder)
    if stored.template is None or stored.tokenizer_json is None:
        raise _unreadable("it carries no frozen template (attune.json) or no tokenizer.json")
    tokenizer_json = stored.tokenizer_json.read_bytes()
    if hashlib.sha256(tokenizer_json).hexdigest() != stored.template.tokenizer_sha256:
        raise _unreadable("tokenizer.json is not the one that the template was frozen with")
    return ServableAdapter(stored, Renderer(tokenizer_json, stored.template))


def _unreadable(reason: str) -> AttuneError:
    return AttuneError(f"the adapter cannot be read: {reason}", code="adapter_unreadable", param="model")


class Generator:
    """One base model in memory with the adapters on it by name; None names the bare base.

    Not for two threads at once: which adapter is active is a state of the model.
    """

    def __init__(self, model: PreTrainedModel, renderer: Renderer, lora: LoraModules | None = None) -> None:
        """`lora`: adapters that stand on the base already, made for the same `renderer`."""
        self.model = model
        self.lora = LoraModules(model) if lora is None else lora
        self._renderers: dict[str | None, Renderer] = dict.fromkeys((None, *self.lora.settings), renderer)
        # Adapters keep their base's tokenizer: one vocabulary serves them all
        self._vocabularies: dict[tuple[str, tuple[int, ...]], Vocabulary] = {}
        self.context_tokens = int(model.config.get_text_config().max_position_embeddings)

    def add(self, name: str, adapter: ServableAdapter) -> None:
        """Put an adapter on the base. Raises AttuneError when one of its tensors does not map."""
        self.lora.add(name, adapter.stored.settings, adapter.stored.tensors)
        self._renderers[name] = adapter.renderer

    def remove(self, name: str) -> None:
        self.lora.remove(name)
        self._renderers.pop(name, None)

    def free(self) -> None:
        """Give the memory of the weights back; the generator is of no use after that."""
        self.lora.detach()
        del self.model, self.lora
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def renderer(self, adapter: str | None) -> Renderer:
        """What turns messages into the prompt that this adapter (or the base) was made for."""
        return self._renderers[adapter]

    def begin(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        adapter: str | None = None,
        grammar: Grammar | None = None,
        *,
        adapter_scale: float = 1.0,
    ) -> Generation:
        """A request that has not yet run; with `grammar`, every answer of it follows that. `adapter_scale`: how strong
        the adapter is for this request alone; at 0 the answer is the base's to the adapter's prompt.

        Raises AttuneError when it does not fit the context, or when the grammar cannot be followed.
        """
        renderer = self._renderers[adapter]
        max_tokens = fit_context(len(prompt_ids), sampling.max_tokens, self.context_tokens)
        constraint = None if grammar is None else self._vocabulary(renderer).compile(grammar)
        sequences = [
            _Sequence(
                index,
                Answer(renderer, stop_ids=renderer.template.stop_ids, stop=sampling.stop, max_tokens=max_tokens),
                _random(sampling.seed, index),
                None if constraint is None else constraint.copy(),
            )
            for index in range(sampling.n)
        ]
        cache = DynamicCache(config=self.model.config)
        return Generation(list(prompt_ids), adapter, sampling, sequences, cache, adapter_scale, live=list(sequences))

    def _vocabulary(self, renderer: Renderer) -> Vocabulary:
        key = (renderer.template.tokenizer_sha256, renderer.template.stop_ids)
        if key not in self._vocabularies:
            self._vocabularies[key] = Vocabulary(renderer.tokenizer_text, renderer.template.stop_ids)
        return self._vocabularies[key]

    # no_grad and not inference_mode: buffers that a model makes on the way must stay fit for a later training
    @torch.no_grad()
    def step(self, generation: Generation) -> list[Delta]:
        """One forward pass: a part of the prompt, or one token of every live answer.

        Raises Unavailable when the request needs more of the GPU's memory than is free.
        """
        self.lora.activate(generation.adapter, generation.adapter_scale)
        try:
            if generation.prefilled == len(generation.prompt_ids):
                last_S1 = torch.tensor([[sequence.answer.token_ids[-1]] for sequence in generation.live])
                return self._sample(generation, self._forward(generation, last_S1))
            logits_SV = self._prefill(generation)
        except torch.OutOfMemoryError as error:
            message = "the server has no memory left for this request; try later, or shorten it or lower n"
            raise Unavailable(message, code="out_of_memory", retry_after_s=10.0) from error
        return [] if logits_SV is None else self._sample(generation, logits_SV)

    def _prefill(self, generation: Generation) -> torch.Tensor | None:
        """Run the next part of the prompt; the logits after its last token, once it is through."""
        start = generation.prefilled
        part_1T = torch.tensor([generation.prompt_ids[start : start + PREFILL_TOKENS]])
        logits_1V = self._forward(generation, part_1T)
        generation.prefilled += part_1T.shape[1]
        if generation.prefilled < len(generation.prompt_ids):
            return None
        rows = len(generation.live)
        generation.cache.batch_repeat_interleave(rows)
        return logits_1V.expand(rows, -1)

    def _forward(self, generation: Generation, tokens_ST: torch.Tensor) -> torch.Tensor:
        """Logits after the last of `tokens_ST`, as float32 on the CPU: (S, V)."""
        output = self.model(
            input_ids=tokens_ST.to(self.model.device),
            past_key_values=generation.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float().cpu()

    def _sample(self, generation: Generation, logits_SV: torch.Tensor) -> list[Delta]:
        sampling = generation.sampling
        deltas: list[Delta] = []
        keep: list[int] = []
        for row, sequence in enumerate(generation.live):
            logits_V = logits_SV[row] if sequence.constraint is None else sequence.constraint.apply(logits_SV[row])
            token_id = sample_token(logits_V, sampling, sequence.answer.token_ids, sequence.random)
            if sequence.constraint is not None:
                sequence.constraint.take(token_id)
            shown = None
            if sampling.top_logprobs is not None:
                shown = _logprob(logits_SV[row], token_id, sampling.top_logprobs)
            piece = sequence.answer.add(token_id, shown)
            if piece.text or piece.logprobs or piece.finish_reason:
                deltas.append(Delta(sequence.index, piece.text, piece.logprobs, piece.finish_reason))
            if piece.finish_reason is None:
                keep.append(row)
        if 0 < len(keep) < len(generation.live):
            generation.cache.batch_select_indices(torch.tensor(keep, device=self.model.device))
        generation.live = [generation.live[row] for row in keep]
        return deltas


def fit_context(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> int:
    """How many tokens an answer may have. Raises AttuneError in OpenAI's words when the request does not fit."""
    wanted = prompt_tokens + (max_tokens or 1)
    if wanted > context_tokens:
        asked = f" and {max_tokens} in the completion" if max_tokens else ""
        raise AttuneError(
            f"This model's maximum context length is {context_tokens} tokens. However, you requested {wanted} "
            f"tokens ({prompt_tokens} in the messages{asked}). Please reduce the length of the messages or "
            "completion.",
            code="context_length_exceeded",
            param="messages",
        )
    return max_tokens or context_tokens - prompt_tokens


def sample_token(logits_V: torch.Tensor, sampling: Sampling, so_far: Sequence[int], random: torch.Generator) -> int:
    """Draw one token id: bias and penalties, then temperature, then the nucleus of mass `top_p`."""
    if sampling.logit_bias or (so_far and (sampling.frequency_penalty or sampling.presence_penalty)):
        logits_V = logits_V.clone()
        for token_id, bias in sampling.logit_bias:
            if token_id < logits_V.shape[0]:
                logits_V[token_id] += bias
        ids, counts = torch.tensor(so_far, dtype=torch.long).unique(return_counts=True)
        logits_V[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits_V.argmax())
    probabilities_V = (logits_V / sampling.temperature).softmax(-1)
    if sampling.top_p >= 1.0:
        return int(torch.multinomial(probabilities_V, 1, generator=random))
    sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
    # The nucleus (arXiv 1904.09751) is the fewest tokens whose mass reaches top_p; the first is always in it
    before_V = sorted_V.cumsum(-1) - sorted_V
    nucleus_V = sorted_V.masked_fill(before_V >= sampling.top_p, 0.0)
    nucleus_V[0] = sorted_V[0]
    return int(order_V[torch.multinomial(nucleus_V, 1, generator=random)])


def _logprob(logits_V: torch.Tensor, token_id: int, rivals: int) -> TokenLogprob:
    logprobs_V = logits_V.log_softmax(-1)
    top = logprobs_V.topk(min(rivals, logprobs_V.shape[0]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return TokenLogprob(token_id, float(logprobs_V[token_id]), tuple(pairs))


def _random(seed: int | None, index: int) -> torch.Generator:
    """A random source of its own for every answer: the CPU's, so that a seed means the same on every device."""
    random = torch.Generator()
    if seed is None:
        random.seed()
    else:
        # Hashed: with seed + index, answer 1 of seed 0 would be answer 0 of seed 1
        digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
        random.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return random
