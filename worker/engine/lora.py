"""LoRA layers: y = W x + scale * B A dropout(x), W frozen (in 4 or 8 bit, or plain), A and B float32 masters.

https://arxiv.org/abs/2106.09685 and https://arxiv.org/abs/2305.14314. One base carries any number of named
adapters, one of which is active at a time; detaching all of them leaves the base exactly as it was loaded.

Shape legend: T tokens, I and O a linear's input and output width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.errors import AttuneError
from core.spec import LoraSettings
from worker.engine.model import linear_names

DEFAULT = "default"
PREFIX = "base_model.model."  # PEFT's, in front of every tensor name


def is_8bit(layer: nn.Module) -> bool:
    """LLM.int8(), https://arxiv.org/abs/2208.07339."""
    from bitsandbytes.nn import Linear8bitLt

    return isinstance(layer, Linear8bitLt)


def frozen_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """[O, I] of a plain, 8-bit or 4-bit linear in `dtype`; quantised weights are dequantised anew at each call."""
    if is_8bit(layer):
        # Row-wise absolute maxima, kept beside the weight until the first forward pass
        scales_O = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        return layer.weight.data.to(dtype).mul_(scales_O.unsqueeze(1).mul(1.0 / 127.0))
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.view(-1, 1), state).to(dtype)


class _LoraFunction(torch.autograd.Function):
    """Forward and backward of one adapted linear without an intermediate of full width beyond the output."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x_TI: Tensor,
        a_RI: Tensor,
        b_OR: Tensor,
        layer: nn.Linear,
        scale: float,
        dropout: float,
    ) -> Tensor:
        dtype = x_TI.dtype
        bias = layer.bias
        if is_8bit(layer):
            y_TO = layer(x_TI)  # its product is made in 8 bit, with the input rounded too
        else:
            y_TO = F.linear(x_TI, frozen_weight(layer, dtype), None if bias is None else bias.to(dtype))
        keep_TI = None
        dropped_TI = x_TI
        if dropout > 0.0:
            keep_TI = torch.empty(x_TI.shape, dtype=torch.bool, device=x_TI.device).bernoulli_(1.0 - dropout)
            scale = scale / (1.0 - dropout)  # inverted dropout, moved behind the two small products
            dropped_TI = x_TI * keep_TI
        a, b = a_RI.to(dtype), b_OR.to(dtype)
        h_TR = dropped_TI @ a.t()
        y_TO.addmm_(h_TR, b.t(), alpha=scale)
        ctx.save_for_backward(x_TI, keep_TI, h_TR, a, b)
        ctx.layer, ctx.scale = layer, scale
        return y_TO

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_TO: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x_TI, keep_TI, h_TR, a, b = ctx.saved_tensors
        gh_TR = (grad_TO @ b).mul_(ctx.scale)
        grad_b = (grad_TO.t() @ h_TR).float().mul_(ctx.scale)
        grad_a = (gh_TR.t() @ (x_TI if keep_TI is None else x_TI * keep_TI)).float()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_TO @ frozen_weight(ctx.layer, grad_TO.dtype)
            if keep_TI is None:
                grad_x.addmm_(gh_TR, a)
            else:
                grad_x += (gh_TR @ a).mul_(keep_TI)
        return grad_x, grad_a, grad_b, None, None, None


@dataclass(frozen=True)
class Factors:
    """One adapter's share in one linear."""

    a: nn.Parameter  # [R, I] float32
    b: nn.Parameter  # [O, R] float32
    scale: float
    dropout: float


class LoraLinear(nn.Module):
    """A frozen linear and the adapters on it. `active` names the adapter in effect; None is the bare base."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.factors: dict[str, Factors] = {}
        self.active: str | None = None
        self.strength = 1.0  # of the active adapter, over its own scale
        self.dropping = False  # dropout in effect; the base itself never leaves eval mode

    @property
    def weight(self) -> Tensor:
        """Some architectures look at a linear's weight for its dtype."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]"""
        own = self.factors.get(self.active) if self.active is not None else None
        if own is None:
            return self.layer(x)
        scale = own.scale * self.strength
        if torch.is_grad_enabled():
            flat = x.reshape(-1, x.shape[-1])
            dropout = own.dropout if self.dropping else 0.0
            y = _LoraFunction.apply(flat, own.a, own.b, self.layer, scale, dropout)
            return y.view(*x.shape[:-1], y.shape[-1])
        h = F.linear(x, own.a.to(x.dtype))
        return torch.add(self.layer(x), F.linear(h, own.b.to(x.dtype)), alpha=scale)


class LoraModules:
    """The adapted linears of one model, and the adapters on them by name."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.paths = linear_names(model)  # all linears of the base, in model order
        self.layers: dict[str, LoraLinear] = {}  # the adapted ones by path
        self.settings: dict[str, LoraSettings] = {}  # by adapter name
        self.active: str | None = None

    def _wrapped(self, path: str) -> LoraLinear:
        if path not in self.layers:
            layer = self.model.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            self.layers[path] = LoraLinear(layer)
            self.model.set_submodule(path, self.layers[path])
        return self.layers[path]

    def create(self, settings: LoraSettings, seed: int, name: str = DEFAULT) -> None:
        """A fresh adapter: A uniform as PEFT makes it (kaiming_uniform with a = sqrt 5), B zero.

        Drawn from a generator of its own in model order, so the same seed gives the same adapter anywhere.
        """
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, Tensor] = {}
        for path in self._targets(settings):
            layer = self._linear(path)
            a = torch.empty(settings.rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            tensors[f"{PREFIX}{path}.lora_A.weight"] = a
            tensors[f"{PREFIX}{path}.lora_B.weight"] = torch.zeros(layer.out_features, settings.rank)
        self.add(name, settings, tensors)

    def add(self, name: str, settings: LoraSettings, tensors: Mapping[str, Tensor]) -> None:
        """Put an adapter on the base by PEFT's tensor names. Not active yet.

        Raises AttuneError where a tensor maps to no linear, lacks its partner or has another shape.
        """
        self.remove(name)
        pairs = self._pairs(settings, tensors)
        for path, (a, b) in pairs.items():
            device = self._linear(path).weight.device
            self._wrapped(path).factors[name] = Factors(
                a=nn.Parameter(a.detach().to(device, torch.float32, copy=True)),
                b=nn.Parameter(b.detach().to(device, torch.float32, copy=True)),
                scale=settings.scale,
                dropout=settings.dropout,
            )
        self.settings[name] = settings

    def _pairs(self, settings: LoraSettings, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """{linear's path: (A, B)} in model order; every tensor is used or refused."""
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        left = set(tensors)
        for path in self.paths:
            names = [f"{PREFIX}{path}.lora_{part}.weight" for part in "AB"]
            if not left.isdisjoint(names):
                layer = self._linear(path)
                expected = [(settings.rank, layer.in_features), (layer.out_features, settings.rank)]
                for name, shape in zip(names, expected, strict=True):
                    if name not in tensors:
                        raise _misfit(f"{name} is missing")
                    if tuple(tensors[name].shape) != shape:
                        raise _misfit(f"{name} has shape {tuple(tensors[name].shape)}, this base needs {shape}")
                left -= set(names)
                pairs[path] = (tensors[names[0]], tensors[names[1]])
        if left:
            raise _misfit(f"{len(left)} tensors map to no linear of this base, such as {min(left)}")
        if not pairs:
            raise _misfit("the adapter holds no tensors")
        return pairs

    def _linear(self, path: str) -> nn.Linear:
        wrapped = self.layers.get(path)
        layer = wrapped.layer if wrapped is not None else self.model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        return layer

    def _targets(self, settings: LoraSettings) -> list[str]:
        """Paths that the settings name, as PEFT reads them: the whole path or its ending."""
        paths = self.paths
        if settings.target_modules == "all-linear":
            return paths
        missing = [
            wanted
            for wanted in settings.target_modules
            if not any(path == wanted or path.endswith("." + wanted) for path in paths)
        ]
        if missing:
            leaves = ", ".join(sorted({path.rsplit(".", 1)[-1] for path in paths}))
            raise AttuneError(
                f"target_modules: this base has no linear layer named {', '.join(missing)}; it has {leaves}",
                code="unknown_target_module",
                param="hyperparameters.lora.target_modules",
            )
        return [
            path
            for path in paths
            if any(path == wanted or path.endswith("." + wanted) for wanted in settings.target_modules)
        ]

    def activate(self, name: str | None, strength: float = 1.0) -> None:
        """Put one adapter in effect, or none. At a `strength` of 0 the linears are the base's own, bit for bit."""
        assert name is None or name in self.settings
        for layer in self.layers.values():
            layer.active = name if strength else None
            layer.strength = strength
        self.active = name

    def training(self, on: bool) -> None:
        """Dropout on or off."""
        for layer in self.layers.values():
            layer.dropping = on

    def remove(self, name: str) -> None:
        """Take an adapter away; unknown names are none."""
        if self.active == name:
            self.activate(None)
        self.settings.pop(name, None)
        for layer in self.layers.values():
            layer.factors.pop(name, None)

    def weights(self, name: str = DEFAULT) -> dict[str, Tensor]:
        """{PEFT tensor name: the float32 master itself, detached}, in model order."""
        named: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            if name in layer.factors:
                named[f"{PREFIX}{path}.lora_A.weight"] = layer.factors[name].a.detach()
                named[f"{PREFIX}{path}.lora_B.weight"] = layer.factors[name].b.detach()
        return named

    def set_weights(self, tensors: Mapping[str, Tensor], name: str = DEFAULT) -> None:
        """Copy values into an adapter that stands; the names must be exactly its own."""
        own = self.weights(name)
        assert own.keys() == tensors.keys()
        for key, value in own.items():
            value.copy_(tensors[key])

    def parameters(self, name: str = DEFAULT) -> list[nn.Parameter]:
        """A and B of every layer in model order."""
        factors = [layer.factors[name] for layer in self.layers.values() if name in layer.factors]
        return [parameter for own in factors for parameter in (own.a, own.b)]

    def target_modules(self, name: str = DEFAULT) -> list[str]:
        """Sorted, for adapter_config.json: leaf names where they single out the adapted layers, else paths."""
        paths = [path for path, layer in self.layers.items() if name in layer.factors]
        leaves = {path.rsplit(".", 1)[-1] for path in paths}
        matched = {path for path in self.paths if path.rsplit(".", 1)[-1] in leaves}
        return sorted(leaves) if matched == set(paths) else sorted(paths)

    def detach(self) -> None:
        """Give the model its own linears back."""
        for path, layer in self.layers.items():
            self.model.set_submodule(path, layer.layer)
        self.layers.clear()
        self.settings.clear()
        self.active = None


def attach(model: PreTrainedModel, settings: LoraSettings, seed: int) -> LoraModules:
    """A fresh adapter on `model`, active. Training takes `parameters()`; dropout is off until `training(True)`."""
    modules = LoraModules(model)
    modules.create(settings, seed)
    modules.activate(DEFAULT)
    return modules


def _misfit(message: str) -> AttuneError:
    return AttuneError(f"the adapter does not fit this base: {message}", code="adapter_misfit", param="model")
