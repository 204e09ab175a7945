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
    _refuse_other_kinds(model)
    device = next(model.parameters()).device
    lengths = (5, 9)
    vocab = model.get_input_embeddings().weight.shape[0]
    tokens_T = (torch.arange(sum(lengths)) * 7919 % vocab).to(device)
    positions_T = torch.cat([torch.arange(n) for n in lengths]).to(device)
    try:
        hidden_TD = hidden_states(model, tokens_T, positions_T, Segments(lengths, device))
        ours = Head(model).logits(hidden_TD)
        # Another first example must not change the second: a recurrent state would carry it over
        others_T = torch.cat([tokens_T[: lengths[0]] + 1, tokens_T[lengths[0] :]]) % vocab
        again_TD = hidden_states(model, others_T, positions_T, Segments(lengths, device))
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
    leaked = float((again_TD - hidden_TD)[lengths[0] :].float().norm() / hidden_TD[lengths[0] :].float().norm())
    if not leaked < (5e-2 if rounds else 1e-4):
        raise AttuneError(
            f"{model.config.model_type} carries a state from one example of a pack to the next (relative change "
            f"{leaked:.3g}), which is not supported",
            code="base_unusable",
            param="model",
        )
    tolerance = 1e-3 if hidden_TD.dtype == torch.float32 and not rounds else 5e-2
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
    if not error < tolerance:
        raise AttuneError(
            f"{model.config.model_type} computes packed examples or its logits in a way that is not supported "
            f"(relative difference {error:.3g} to the unpacked model)",
            code="base_unusable",
            param="model",
        )


def _refuse_other_kinds(model: PreTrainedModel) -> None:
    """A mixture of experts has its experts in no linear layers, so LoRA would pass them by; and what sees or hears is
    more than a language model."""
    config = model.config.get_text_config()
    experts = [name for name in ("num_local_experts", "num_experts", "n_routed_experts") if getattr(config, name, None)]
    parts = [name for name in ("vision_config", "audio_config") if getattr(model.config, name, None) is not None]
    for names, kind in ((experts, "a mixture of experts"), (parts, "a multimodal model")):
        if names:
            raise AttuneError(
                f"{model.config.model_type} is {kind} ({names[0]} in config.json), which is not supported yet",
                code="base_unusable",
                param="model",
            )
