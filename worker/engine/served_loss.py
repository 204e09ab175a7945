"""What a model thinks of a sequence as the server computes it: alone, unpacked, through transformers' own path.

Letters: T tokens, S supervised positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.loss import Head
from worker.engine.pack import Segment

ROWS = 256  # of logits at once


def served_states(model: PreTrainedModel, tokens_T: Tensor) -> Tensor:
    """(T, width) before the head, by the adapter that is active."""
    return model.base_model(input_ids=tokens_T[None].to(model.device), use_cache=False).last_hidden_state[0]


@torch.no_grad()
def log_likelihood(model: PreTrainedModel, head: Head, segment: Segment) -> float:
    """Nats of the segment's supervised tokens."""
    tokens_T = torch.from_numpy(segment.token_ids.astype("int64"))
    rows_S = torch.from_numpy(segment.mask).nonzero().squeeze(1) - 1
    hidden_TD = served_states(model, tokens_T)
    nll = 0.0
    for part in rows_S.split(ROWS):
        targets = tokens_T[part + 1].to(hidden_TD.device)
        nll += float(F.cross_entropy(head.logits(hidden_TD[part]), targets, reduction="sum"))
    return -nll


def mean_loss_served(model: PreTrainedModel, segments: Sequence[Segment]) -> float:
    """Nats per supervised token."""
    head = Head(model)
    supervised = sum(int(segment.mask.sum()) for segment in segments)
    return -sum(log_likelihood(model, head, segment) for segment in segments) / max(supervised, 1)
