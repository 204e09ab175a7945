"""Before a base is trained, its packed logits are compared with transformers' own on a few tokens.

An architecture that mixes segments (a recurrent state, an attention of another kind) or computes its logits
otherwise than `loss.Head` is refused here instead of trained wrongly.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from core.errors import AttuneError
from worker.engine.attention import Segments, UnsupportedArchitecture
from worker.engine.lora import is_8bit
from worker.engine.loss import Head
from worker.engine.model import hidden_states


@torch.no_grad()
def verify(model: PreTrainedModel) -> None:
    """Refuse a base whose packed logits are not those of transformers' own path on each segment alone."""
    device = next(model.parameters()).device
    lengths = (5, 9)
    vocab = model.get_input_embeddings().weight.shape[0]
    tokens_T = (torch.arange(sum(lengths)) * 7919 % vocab).to(device)
    positions_T = torch.cat([torch.arange(n) for n in lengths]).to(device)
    try:
        hidden_TD = hidden_states(model, tokens_T, positions_T, Segments(lengths, device))
        ours = Head(model).logits(hidden_TD)
        whole = [model(input_ids=part.unsqueeze(0), use_cache=False).logits[0] for part in tokens_T.split(lengths)]
    except torch.OutOfMemoryError:
        raise
    except (UnsupportedArchitecture, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise AttuneError(
            f"{model.config.model_type} is not supported: {error}", code="base_unusable", param="model"
        ) from error
    theirs = torch.cat(whole).float()
    # bf16 keeps 8 bits, and the two paths add in different orders
    # Where a feature is an outlier in any token, LLM.int8() takes it out of every token's 8-bit product
    rounds = any(is_8bit(module) for module in model.modules())
    tolerance = 1e-3 if hidden_TD.dtype == torch.float32 and not rounds else 5e-2
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
    if not error < tolerance:
        raise AttuneError(
            f"{model.config.model_type} computes packed examples or its logits in a way that is not supported "
            f"(relative difference {error:.3g} to the unpacked model)",
            code="base_unusable",
            param="model",
        )
