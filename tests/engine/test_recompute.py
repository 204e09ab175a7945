"""What is made anew in the backward pass changes no bit of a gradient and takes memory away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from core.spec import LoraSettings
from worker.engine.lora import attach
from worker.engine.recompute import save_memory

TOKENS = torch.arange(1, 65)[None] * 7 % 300
LAYERS, HIDDEN, INNER = 3, 64, 192


def model() -> PreTrainedModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).requires_grad_(False).eval()


def gradients(base: PreTrainedModel, targets: tuple[str, ...], dropout: float) -> tuple[list[Tensor], int]:
    """Of every adapter tensor, and the bytes that the backward pass had kept, each storage once."""
    modules = attach(base, LoraSettings(rank=4, scale=2.0, dropout=dropout, target_modules=targets), seed=5)
    modules.training(True)
    for parameter in modules.parameters():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    torch.manual_seed(9)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        loss = base(input_ids=TOKENS).logits.float().square().mean()
    loss.backward()
    found = [parameter.grad for parameter in modules.parameters()]
    modules.detach()
    return [grad for grad in found if grad is not None], sum(kept.values())


@pytest.mark.parametrize("targets", [("down_proj", "gate_proj", "q_proj"), ("q_proj",)])
def test_gradients_are_the_same_bits_from_less_memory(targets: tuple[str, ...]) -> None:
    plain, lean = model(), model()
    save_memory(lean)
    expected, much = gradients(plain, targets, dropout=0.2)
    found, less = gradients(lean, targets, dropout=0.2)
    assert len(found) == len(expected) == 2 * len(targets) * LAYERS
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # Of each layer at least the activated gate, and where down_proj is adapted its input, both bfloat16
    inner = TOKENS.numel() * INNER * 2
    assert much - less >= LAYERS * inner * (2 if "down_proj" in targets else 1)


def test_without_gradients_and_with_trained_norms_nothing_changes(base_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base_folder)
    lean = AutoModelForCausalLM.from_pretrained(base_folder)
    save_memory(lean)
    with torch.no_grad():
        assert torch.equal(plain(input_ids=TOKENS).logits, lean(input_ids=TOKENS).logits)
    for each in (plain, lean):  # full training: every parameter has a gradient
        each(input_ids=TOKENS).logits.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), name
