"""Direct preference optimisation: how much more the adapter prefers a pair's better answer than its reference does.

https://arxiv.org/abs/2305.18290, equation 7. The reference is the same base with the adapter switched off (or with
the adapter that training began from), so there is no second model; it sees the very same packs.

Shape legend: T tokens of the pack, S supervised rows, C rows of a chunk, N sequences (2 P), P pairs, D hidden width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.lora import LoraModules
from worker.engine.loss import CHUNK_ELEMENTS, Head, Mean, Rewards
from worker.engine.model import hidden_states
from worker.engine.pack import Pack, Segment, pack_micro_steps

REFERENCE = "reference"  # adapter that a continued training is held against


class _Likelihoods(torch.autograd.Function):
    """Log-likelihood of each sequence's supervised tokens, in nats, and how many of them the model guesses.

    How much a sequence's gradient counts is known only once both of its pair are scored, so the backward pass
    makes the logits again, chunk by chunk, instead of keeping [S, V] of them.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden_SD: Tensor,
        targets_S: Tensor,
        owners_S: Tensor,
        sequences: int,
        head: Head,
    ) -> tuple[Tensor, Tensor]:
        log_p_N = hidden_SD.new_zeros(sequences, dtype=torch.float32)
        right_N = torch.zeros(sequences, dtype=torch.int64, device=hidden_SD.device)
        for part in _chunks(len(targets_S), head):
            logits_CV = head.logits(hidden_SD[part])
            log_p_C = F.log_softmax(logits_CV, dim=-1).gather(1, targets_S[part, None]).squeeze(1)
            log_p_N.index_add_(0, owners_S[part], log_p_C)
            right_N.index_add_(0, owners_S[part], (logits_CV.argmax(-1) == targets_S[part]).long())
        ctx.save_for_backward(hidden_SD, targets_S, owners_S)
        ctx.head = head
        ctx.mark_non_differentiable(right_N)
        return log_p_N, right_N

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_N: Tensor, _right: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        hidden_SD, targets_S, owners_S = ctx.saved_tensors
        head: Head = ctx.head
        grad_SD = torch.empty_like(hidden_SD)
        for part in _chunks(len(targets_S), head):
            logits_CV, targets_C = head.logits(hidden_SD[part]), targets_S[part]
            grad_CV = torch.softmax(logits_CV, dim=-1).neg_()  # d log p / d logits = [target] - p
            grad_CV[torch.arange(len(targets_C), device=grad_CV.device), targets_C] += 1.0
            grad_CV.mul_(grad_N[owners_S[part], None])
            grad_SD[part] = head.backward(grad_CV, logits_CV)
        return grad_SD, None, None, None, None


def _chunks(rows: int, head: Head) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    return [slice(start, start + size) for start in range(0, rows, size)]


def log_likelihoods(model: PreTrainedModel, head: Head, pack: Pack) -> tuple[Tensor, Tensor]:
    """([N] nats, [N] tokens guessed right) over the supervised tokens of each of the pack's sequences."""
    hidden_TD = hidden_states(model, pack.token_ids, pack.position_ids, pack.segments)
    lengths_N = torch.tensor(pack.segments.lengths[: pack.count], device=pack.rows.device)
    owners_T = torch.repeat_interleave(torch.arange(len(lengths_N), device=pack.rows.device), lengths_N)
    hidden_SD = hidden_TD.index_select(0, pack.rows)
    return _Likelihoods.apply(hidden_SD, pack.targets, owners_T[pack.rows], len(lengths_N), head)


def dpo(policy_N: Tensor, reference_N: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """([P] losses in nats, [P] reward margins) of log-likelihoods in the order preferred, other, preferred, other.

    A reward is beta times the log-ratio of policy to reference; the loss is -log sigmoid of the rewards' margin.
    """
    rewards_P2 = beta * (policy_N - reference_N).view(-1, 2)
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    return -F.logsigmoid(margins_P), margins_P


@dataclass(frozen=True)
class PairScores:
    """Of one pack, each a scalar on the device. Sums but for `loss`."""

    loss: Tensor  # summed over the pairs, times the factor asked for
    right: Tensor  # tokens of preferred answers that the model guesses
    won: Tensor  # pairs whose margin is positive
    margin: Tensor


class Preference:
    """Scores pairs by the active adapter against the reference. `reference` names an adapter; None is the bare base."""

    def __init__(self, model: PreTrainedModel, modules: LoraModules, beta: float, reference: str | None) -> None:
        self._model = model
        self._modules = modules
        self._head = Head(model)
        self._beta = beta
        self._reference = reference

    def score(self, pack: Pack, factor: float) -> PairScores:
        """With factor = 1 / pairs of the optimizer step, the losses of its packs add up to the step's mean."""
        policy = self._modules.active
        self._modules.activate(self._reference)
        with torch.no_grad():
            reference_N, _ = log_likelihoods(self._model, self._head, pack)
        self._modules.activate(policy)
        policy_N, right_N = log_likelihoods(self._model, self._head, pack)
        losses_P, margins_P = dpo(policy_N, reference_N, self._beta)
        margins_P = margins_P.detach()
        return PairScores(losses_P.sum() * factor, right_N[::2].sum(), (margins_P > 0).sum(), margins_P.sum())

    @torch.no_grad()
    def mean(self, segments: Sequence[Segment], micro_tokens: int) -> Mean:
        """Mean loss and rewards over pairs, and next-token accuracy on the preferred answers, without dropout."""
        pairs, device = pairs_of(segments), self._head.weight.device
        loss = margin = 0.0
        right = won = 0
        lengths = [sum(len(segment.token_ids) for segment in pair) for pair in pairs]
        for micro in pack_micro_steps(lengths, micro_tokens):
            scores = self.score(Pack.of([segment for i in micro for segment in pairs[i]], device), 1.0)
            loss += float(scores.loss)
            margin += float(scores.margin)
            right += int(scores.right)
            won += int(scores.won)
        supervised = preferred_tokens(segments)
        count = max(len(pairs), 1)
        return Mean(loss / count, right / max(supervised, 1), supervised, Rewards(won / count, margin / count))


def pairs_of(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments as they are rendered, preferred, other, preferred, other, two by two."""
    return [[segments[i], segments[i + 1]] for i in range(0, len(segments), 2)]


def preferred_tokens(segments: Sequence[Segment]) -> int:
    """Supervised tokens of the preferred answers: what the accuracy of a preference run is measured on."""
    return sum(int(segment.mask.sum()) for segment in segments[::2])
