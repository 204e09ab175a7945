"""The dimensions of a base model as its config.json gives them, and the parameters that follow.

Every linear layer of a decoder block is counted by its own width, not as a share of one square matrix: that is
why the figures differ from the simple 2 * rank * sqrt(parameters) that introductions to LoRA show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from core.data.jsonl import Json
from core.errors import AttuneError
from core.spec import LoraSettings


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer. Widths in features, `context` in tokens."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # the head shares the embedding's weight
    context: int
    parameters: int
    fused: bool = False  # q, k, v and gate, up stand as one linear each (Phi 3)

    def linears(self) -> dict[str, tuple[int, int]]:
        """Path within a block to (in, out) features of each of its linear layers."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.fused:
            return {
                "self_attn.qkv_proj": (self.hidden, query + 2 * key),
                "self_attn.o_proj": (query, self.hidden),
                "mlp.gate_up_proj": (self.hidden, 2 * self.ffn),
                "mlp.down_proj": (self.ffn, self.hidden),
            }
        return {
            "self_attn.q_proj": (self.hidden, query),
            "self_attn.k_proj": (self.hidden, key),
            "self_attn.v_proj": (self.hidden, key),
            "self_attn.o_proj": (query, self.hidden),
            "mlp.gate_proj": (self.hidden, self.ffn),
            "mlp.up_proj": (self.hidden, self.ffn),
            "mlp.down_proj": (self.ffn, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Of the linear layers in the blocks: what is quantised and what LoRA attaches to."""
        return self.layers * sum(inward * outward for inward, outward in self.linears().values())


def shape_of(config: Mapping[str, Json], parameters: int | None = None) -> ModelShape:
    """The shape that a config.json describes; `parameters` is the weights' own count, where it is known.

    Raises `AttuneError` (unsupported_base_model) when a dimension is missing.
    """
    inner = config.get("text_config")
    values = inner if isinstance(inner, dict) else config

    def number(*names: str, default: int | None = None) -> int:
        for name in names:
            value = values.get(name)
            if isinstance(value, int) and value > 0:
                return value
        if default is None:
            raise AttuneError(
                f"the base model's config.json does not say {names[0]}", code="unsupported_base_model", param="model"
            )
        return default

    hidden, layers = number("hidden_size", "n_embd"), number("num_hidden_layers", "n_layer")
    heads = number("num_attention_heads", "n_head")
    tied = values.get("tie_word_embeddings", config.get("tie_word_embeddings", False)) is True
    shape = ModelShape(
        hidden=hidden,
        layers=layers,
        ffn=number("intermediate_size", "n_inner", default=4 * hidden),
        heads=heads,
        kv_heads=number("num_key_value_heads", default=heads),
        head_dim=number("head_dim", default=hidden // heads),
        vocab=number("vocab_size"),
        tied=tied,
        context=number("max_position_embeddings", "n_positions", default=2048),
        parameters=parameters or 0,
        fused=values.get("model_type") in ("phi3", "phi4"),
    )
    if parameters:
        return shape
    norms = (2 * layers + 1) * hidden
    total = shape.linear_parameters + shape.vocab * hidden * (1 if tied else 2) + norms
    return replace(shape, parameters=total)


def trainable_parameters(shape: ModelShape, lora: LoraSettings | None) -> int:
    """rank * (in + out) for every linear that is adapted (LoRA, arXiv 2106.09685, section 4.1); without an adapter
    every weight."""
    if lora is None:
        return shape.parameters
    return sum(lora.rank * (inward + outward) for inward, outward in _adapted(shape, lora))


def _adapted(shape: ModelShape, lora: LoraSettings) -> list[tuple[int, int]]:
    """(in, out) of every adapted linear. A target is the ending of a path, as PEFT reads it."""
    found: list[tuple[int, int]] = []
    for layer in range(shape.layers):
        for path, widths in shape.linears().items():
            dotted = f".model.layers.{layer}.{path}"
            if lora.target_modules == "all-linear" or any(dotted.endswith("." + t) for t in lora.target_modules):
                found.append(widths)
    return found


def rounded(count: int, unit: str = "parameters") -> str:
    """A count as people read it: 8.03 G parameters."""
    for factor, letter in ((1_000_000_000, " G"), (1_000_000, " M"), (1_000, " k")):
        if count >= factor:
            return f"{count / factor:.3g}{letter} {unit}"
    return f"{count} {unit}"
