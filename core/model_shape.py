"""The dimensions of a base model as its config.json gives them, and what follows: parameters and memory.

Every linear layer of a decoder block is counted by its own width, not as a share of one square matrix: that is
why the figures differ from the simple 2 * rank * sqrt(parameters) that introductions to LoRA show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from core.errors import AttuneError
from core.jsonl import Json
from core.spec import Execution, LoraSettings, Method, Quantization, Resolved, Training

# NF4 with double quantisation: 4 bits, and 8-bit constants a block of 64 with a 32-bit one a block of 256
# (QLoRA, arXiv 2305.14314, section 3)
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
SINGLE_4BIT_BYTES = (4 + 32 / 64) / 8  # a block's constant in 32 bit
ADAPTER_COPIES = 4  # float32 weights, gradients and the two moments of Adam
# Kept for the backward pass per token and layer, in elements of the compute precision, without recomputation
HIDDEN_ELEMENTS, FFN_ELEMENTS = 20, 5
LEAST_MICRO_TOKENS = 1024  # what an engine on a GPU packs at least into one micro-step
LOGITS_ELEMENTS = 1 << 26  # of one chunk of the loss, in float32
LOGITS_COPIES = 3  # logits, log-probabilities and one in between
RUNTIME_BYTES = 512 * 1024**2  # the program and its libraries, before any model


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


def weight_bytes(quantization: Quantization, double: bool, element: int) -> float:
    """Of one weight of a linear layer in a block; `element`: bytes of the compute precision."""
    if quantization.is_4bit:
        return NF4_BYTES if double else SINGLE_4BIT_BYTES
    return 1.0 if quantization is Quantization.INT8 else element  # a row's one constant is nothing beside it


def memory(
    resolved: Resolved,
    shape: ModelShape,
    execution: Execution | None = None,
    *,
    longest_tokens: int | None = None,
) -> dict[str, int]:
    """Bytes a run needs at its peak, by part. Without `execution`: bfloat16 and the smallest micro-step.

    A micro-step holds its token budget, or the longest example where that is longer; the two sequences of a
    preference pair are in one.
    """
    element = 4 if execution is not None and execution.precision == "float32" else 2
    budget = execution.micro_tokens if execution is not None else LEAST_MICRO_TOKENS
    longest = resolved.max_example_tokens if longest_tokens is None else longest_tokens
    tokens = max(budget, 2 * longest if resolved.method is Method.DPO else longest)
    quantized = resolved.quantization is not Quantization.NONE
    if resolved.training is Training.FULL:
        element = 4  # masters and compute in float32; gradients and moments are counted as the adapter's are
    others = max(0, shape.parameters - shape.linear_parameters)
    widest = max(inward * outward for inward, outward in shape.linears().values())
    per_token_elements = shape.layers * (HIDDEN_ELEMENTS * shape.hidden + FFN_ELEMENTS * shape.ffn)
    return {
        "base_linears": int(
            shape.linear_parameters * weight_bytes(resolved.quantization, resolved.double_quantization, element)
        ),
        "base_embeddings": others * element,
        "adapter_and_optimizer": trainable_parameters(shape, resolved.lora)
        * 4
        * (ADAPTER_COPIES if resolved.training is Training.LORA else ADAPTER_COPIES - 1),
        "activations": tokens * per_token_elements * element,
        "loss": min(tokens * shape.vocab, max(LOGITS_ELEMENTS, shape.vocab)) * 4 * LOGITS_COPIES,
        "dequantized_layer": widest * element if quantized else 0,
        "runtime": RUNTIME_BYTES,
    }
