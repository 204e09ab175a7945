"""Activation checkpointing: each decoder layer keeps its input alone and is run again in the backward pass.

https://arxiv.org/abs/1604.06174. The same numbers come out, dropout included, for about a third more time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


class Recomputed:
    """`switch(True)` puts every decoder layer of a model under checkpointing; `switch(False)` gives each its own
    forward back. transformers' own switch would need train mode, in which a base's dropout is in effect too."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._is_on = False

    def switch(self, on: bool) -> None:
        for layer in self._layers:
            if on and not self._is_on:
                layer.forward = partial(_recomputed, layer.forward)
            elif self._is_on and not on:
                _give_back(layer)
        self._is_on = on


def _recomputed(forward: Callable[..., torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _give_back(layer: nn.Module) -> None:
    wrapped = layer.forward
    assert isinstance(wrapped, partial)
    layer.forward = wrapped.args[0]
