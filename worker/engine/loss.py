"""Loss and accuracy on supervised positions only, with the head's gradient made in the forward pass.

The full [T, vocabulary] logits never exist: the frozen head runs over chunks of supervised rows, and each chunk
leaves only its gradient with respect to the hidden states.

Shape legend: T tokens of the pack, S supervised rows, C rows of a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.model import hidden_states
from worker.engine.pack import Pack, Segment, pack_micro_steps

CHUNK_ELEMENTS = 1 << 26  # logits of a chunk in float32: 256 MiB


class Head:
    """The base's output head: logits = scale * (h W^T + b), then cap * tanh(logits / cap) where the config caps."""

    def __init__(self, model: PreTrainedModel) -> None:
        layer = model.get_output_embeddings()
        self.weight: Tensor = layer.weight  # [V, D]
        self.bias: Tensor | None = layer.bias
        config = model.config.get_text_config()
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)
        # Granite divides its logits, Cohere multiplies them; `model.verify` refuses anything else
        divisor = getattr(config, "logits_scaling", None)
        factor = getattr(config, "logit_scale", None)
        self.scale: float = (1.0 / divisor if divisor else 1.0) * (factor if factor else 1.0)

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """[S, V] in float32."""
        logits_SV = F.linear(hidden_SD, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits_SV = logits_SV * self.scale
        return self.cap * torch.tanh(logits_SV / self.cap) if self.cap else logits_SV

    def backward(self, grad_SV: Tensor, logits_SV: Tensor) -> Tensor:
        """[S, D] gradient of the hidden states from that of `logits`' result (float32; overwritten)."""
        if self.cap:
            grad_SV.mul_(1.0 - (logits_SV / self.cap) ** 2)
        if self.scale != 1.0:
            grad_SV.mul_(self.scale)
        return grad_SV.to(self.weight.dtype) @ self.weight


class _HeadLoss(torch.autograd.Function):
    """Sum of the negative log likelihoods over S rows, times `factor`, and the number of rows guessed right."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden_SD: Tensor,
        targets_S: Tensor,
        head: Head,
        factor: float,
        wants_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        nll = hidden_SD.new_zeros((), dtype=torch.float32)
        right = torch.zeros((), dtype=torch.int64, device=hidden_SD.device)
        grad_SD = torch.empty_like(hidden_SD) if wants_grad else None
        chunk = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
        for start in range(0, len(targets_S), chunk):
            hidden_CD, targets_C = hidden_SD[start : start + chunk], targets_S[start : start + chunk]
            logits_CV = head.logits(hidden_CD)
            log_p_CV = F.log_softmax(logits_CV, dim=-1)
            nll += F.nll_loss(log_p_CV, targets_C, reduction="sum")
            right += (logits_CV.argmax(-1) == targets_C).sum()
            if grad_SD is not None:
                p_CV = log_p_CV.exp_()
                p_CV[torch.arange(len(targets_C), device=p_CV.device), targets_C] -= 1.0
                p_CV.mul_(factor)
                grad_SD[start : start + chunk] = head.backward(p_CV, logits_CV)
        ctx.grad_SD = grad_SD
        ctx.mark_non_differentiable(right)
        return nll * factor, right

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _right: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        return ctx.grad_SD * grad.to(ctx.grad_SD.dtype), None, None, None, None


def pack_loss(model: PreTrainedModel, head: Head, pack: Pack, factor: float) -> tuple[Tensor, Tensor]:
    """(sum of nll over the pack's supervised tokens * factor, tokens guessed right), both scalars on the device.

    With factor = 1 / supervised tokens of the optimizer step, the losses of its packs add up to the step's mean.
    """
    hidden_TD = hidden_states(model, pack.token_ids, pack.position_ids, pack.segments)
    hidden_SD = hidden_TD.index_select(0, pack.rows)
    return _HeadLoss.apply(hidden_SD, pack.targets, head, factor, hidden_SD.requires_grad)


@dataclass(frozen=True)
class Rewards:
    """What a preference run adds to its loss: how often, and by how much, the preferred answer is ahead."""

    accuracy: float
    margin: float  # nats, times beta


@dataclass(frozen=True)
class Mean:
    loss: float  # nats per supervised token, or per preference pair
    accuracy: float
    supervised_tokens: int
    rewards: Rewards | None = None


@torch.no_grad()
def mean_loss(model: PreTrainedModel, examples: Sequence[Segment], micro_tokens: int = 2048) -> Mean:
    """Mean loss and next-token accuracy over the supervised tokens of `examples`, without dropout.

    The LoRA adapter that is active in `model` counts. The caller switches dropout off (`LoraModules.training`).
    """
    head = Head(model)
    device = head.weight.device
    nll = 0.0
    right = supervised = 0
    for micro in pack_micro_steps([len(example.token_ids) for example in examples], micro_tokens):
        pack = Pack.of([examples[i] for i in micro], device)
        loss, hits = pack_loss(model, head, pack, 1.0)
        nll += float(loss)
        right += int(hits)
        supervised += len(pack.rows)
    return Mean(nll / max(supervised, 1), right / max(supervised, 1), supervised)
