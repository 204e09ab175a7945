"""One optimizer step's gradients: its examples in packed micro-steps, over all processes of the job.

The loss is the mean over the step's supervised tokens, or over its preference pairs, however they are packed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import AttuneError
from worker.engine.full import FullWeights, full_pack_loss
from worker.engine.lora import LoraModules
from worker.engine.loss import Head, Rewards, pack_loss
from worker.engine.optimizer import clip_gradients
from worker.engine.pack import Pack, Segment, pack_micro_steps
from worker.engine.parallel import World
from worker.engine.preference import Preference, pairs_of, preferred_tokens
from worker.engine.watch import shown


class LossNotFinite(AttuneError):
    """The loss or its gradient became NaN or infinite."""

    def __init__(self, step: int, lines: list[int], what: str) -> None:
        super().__init__(
            f"step {step}: the {what} is not finite; the step trained on {shown(lines)} of the training file. "
            "Lower learning_rate_multiplier, and look at these lines",
            code="loss_not_finite",
            param="hyperparameters.learning_rate_multiplier",
        )


@dataclass(frozen=True)
class Learnt:
    """What one optimizer step saw, before it moved the adapter."""

    loss: float
    accuracy: float
    norm: float  # of the gradient before clipping
    weight: int  # what the loss is a mean of: supervised tokens, or pairs
    rewards: Rewards | None


def units_of(segments: list[Segment], in_pairs: bool) -> list[list[Segment]]:
    """What has to be in one pack: a pair's loss needs both of its sequences."""
    return pairs_of(segments) if in_pairs else [[segment] for segment in segments]


class Gradients:
    """Those of one model's trained weights. `preference` is given for the method dpo."""

    def __init__(
        self,
        model: PreTrainedModel,
        modules: LoraModules | FullWeights,
        preference: Preference | None,
        *,
        max_grad_norm: float,
        seed: int,
        world: World,
    ) -> None:
        self._model = model
        self._modules = modules
        self._preference = preference
        self._parameters = modules.parameters()
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._world = world
        self._head = Head(model)
        self._pack_loss = full_pack_loss if isinstance(modules, FullWeights) else pack_loss
        # The loss of guessing: among all tokens, or which of two answers is preferred
        self.guess = math.log(2 if preference else self._head.weight.shape[0])

    def units(self, segments: list[Segment]) -> list[list[Segment]]:
        return units_of(segments, self._preference is not None)

    def of_pack(self, segments: list[Segment]) -> None:
        """Add one pack's gradients to those that stand."""
        self._score(segments, 1.0)[0].backward()

    def of_step(self, segments: list[Segment], number: int, micro_tokens: int) -> Learnt:
        """Accumulate and clip a step's gradients, each process those of its share. Raises LossNotFinite."""
        in_pairs = self._preference is not None
        weight = len(segments) // 2 if in_pairs else sum(int(segment.mask.sum()) for segment in segments)
        self._modules.training(True)
        self._world.seed_step(self._seed, number)
        units = self.units(segments)
        lengths = [sum(len(segment.token_ids) for segment in unit) for unit in units]
        own = self._world.share(lengths)
        packed = pack_micro_steps([lengths[i] for i in own], micro_tokens)
        micro_steps = [[own[i] for i in micro] for micro in packed]
        packs = [[segment for i in micro for segment in units[i]] for micro in micro_steps]
        losses, counts = self._world.all_or_none(lambda: self._of_packs(packs, 1.0 / weight))
        self._world.sum_gradients(self._parameters)
        norm = clip_gradients(self._parameters, self._max_grad_norm)
        self._modules.training(False)
        # One transfer for all numbers of the step: each would wait for the device by itself
        summed = torch.stack([torch.zeros(3, device=norm.device), *counts]).sum(0)
        *parts, own_right, own_won, own_margin, norm_value = torch.stack([*losses, *summed, norm]).tolist()
        loss_sum, right, won, margin = self._world.sum([sum(parts), own_right, own_won, own_margin])
        if not (math.isfinite(loss_sum) and math.isfinite(norm_value)):
            faulty = [
                units[i][0].line
                for micro, part in zip(micro_steps, parts, strict=True)
                if not math.isfinite(part)
                for i in micro
            ]
            faulty = self._world.gather(faulty)
            lines = faulty or [segment.line for segment in segments]
            raise LossNotFinite(number, sorted(set(lines)), "loss" if faulty else "gradient")
        if not in_pairs:
            return Learnt(loss_sum, right / weight, norm_value, weight, None)
        rewards = Rewards(won / weight, margin / weight)
        return Learnt(loss_sum, right / preferred_tokens(segments), norm_value, weight, rewards)

    def _of_packs(self, packs: Sequence[Sequence[Segment]], factor: float) -> tuple[list[Tensor], list[Tensor]]:
        """Each pack's share of the loss, and its counts; the gradients add up."""
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        for segments in packs:
            loss, sums = self._score(segments, factor)
            loss.backward()
            losses.append(loss.detach())
            counts.append(sums)
        return losses, counts

    def _score(self, segments: Sequence[Segment], factor: float) -> tuple[Tensor, Tensor]:
        """(one pack's share of the loss, [3]: tokens guessed right, pairs won, their margins)"""
        pack = Pack.of(segments, self._parameters[0].device)
        if self._preference is None:
            loss, right = self._pack_loss(self._model, self._head, pack, factor)
            won = margin = loss.new_zeros(())
        else:
            scores = self._preference.score(pack, factor)
            loss, right, won, margin = scores.loss, scores.right, scores.won, scores.margin
        return loss, torch.stack([right.float(), won.float(), margin.float()])
