"""Full-parameter training: every weight of a small base, in float32, by the same loop, packs and loss as LoRA.

The yardstick that LoRA is held against (https://arxiv.org/abs/2106.09685, section 5). The model is its own result, so
it cannot stay resident for another job.

Shape legend: T tokens of the pack, S supervised rows, C rows of a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from worker.engine.loss import CHUNK_ELEMENTS, Head
from worker.engine.model import hidden_states, tensor_headers
from worker.engine.pack import Pack

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class FullWeights:
    """All weights of `model` as what a run trains: the part of `LoraModules` that the loop needs."""

    active = None  # no adapter

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        model.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        """In model order; a head that shares the embedding's weight is there once."""
        return list(self.model.parameters())

    def weights(self) -> dict[str, Tensor]:
        """{name: the weight itself, detached}, in model order."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values in; the names must be exactly the model's."""
        own = self.weights()
        assert own.keys() == tensors.keys()
        for name, value in own.items():
            value.copy_(tensors[name])

    def training(self, on: bool) -> None:
        """There is no dropout to switch: bases are trained without one."""

    def round_to(self, dtype: torch.dtype) -> None:
        """Give every weight the value that it will have in `dtype`."""
        for value in self.weights().values():
            value.copy_(value.to(dtype))

    def detach(self) -> None:
        self.model.requires_grad_(False)


def stored_dtype(folder: Path) -> torch.dtype:
    """What most numbers of the base's safetensors files are in."""
    counts: dict[torch.dtype, int] = {}
    for entry in tensor_headers(folder).values():
        if entry["dtype"] in _DTYPES:
            dtype = _DTYPES[entry["dtype"]]
            counts[dtype] = counts.get(dtype, 0) + torch.Size(entry["shape"]).numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


def _chunk_loss(hidden_CD: Tensor, targets_C: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    logits_CV = head.logits(hidden_CD)
    right = (logits_CV.argmax(-1) == targets_C).sum()
    return F.cross_entropy(logits_CV, targets_C, reduction="sum"), right


def full_pack_loss(model: PreTrainedModel, head: Head, pack: Pack, factor: float) -> tuple[Tensor, Tensor]:
    """As `loss.pack_loss`, with a gradient for the head's weight too: each chunk's logits are made again in the
    backward pass instead of being kept."""
    hidden_TD = hidden_states(model, pack.token_ids, pack.position_ids, pack.segments)
    hidden_SD = hidden_TD.index_select(0, pack.rows)
    nll = hidden_SD.new_zeros((), dtype=torch.float32)
    right = torch.zeros((), dtype=torch.int64, device=hidden_SD.device)
    size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    for hidden_CD, targets_C in zip(hidden_SD.split(size), pack.targets.split(size), strict=True):
        chunk_nll, chunk_right = checkpoint(
            _chunk_loss, hidden_CD, targets_C, head, use_reentrant=False, preserve_rng_state=False
        )
        nll, right = nll + chunk_nll, right + chunk_right
    return nll * factor, right
