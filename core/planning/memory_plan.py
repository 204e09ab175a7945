"""What a run holds at its peak, in bytes by part: arithmetic on the base's shape and on how the engine trains.

Each formula counts the tensors that the engine keeps, by name; `make bench-plan` holds the sum against measured
peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.bases.model_shape import ModelShape, trainable_parameters
from core.spec import Execution, Quantization, Resolved, Training

# NF4 with double quantisation: 4 bits, and 8-bit constants a block of 64 with a 32-bit one a block of 256
# (QLoRA, arXiv 2305.14314, section 3)
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
SINGLE_4BIT_BYTES = (4 + 32 / 64) / 8  # a block's constant in 32 bit
LEAST_MICRO_TOKENS = 1024  # what an engine on a GPU packs at least into one micro-step
CPU_MICRO_TOKENS = (512, 2048)  # least and most; beyond the most nothing is gained
CUDA_MICRO_TOKENS = (LEAST_MICRO_TOKENS, 16384)
CPU_SHARE, CUDA_SHARE = 0.5, 0.85  # of the device's memory that a run may plan with
LOGITS_ELEMENTS = 1 << 26  # of one chunk of the loss
RUNTIME_BYTES = 512 * 1024**2  # the program and its libraries, before any model
CPU_RUNTIME_BYTES = 95 * 1024**2  # above an idle engine: the architecture's code, kernels made on first use
# What an allocator takes for the tensors of a step: between those that stay it keeps holes of those that went. The
# CPU's is measured (`make bench-plan`, glibc); the GPU's is not, and stands for the rounding of its segments.
CPU_HEAP, GPU_HEAP = 1.7, 1.1
FLOAT32 = 4


@dataclass(frozen=True)
class Workload:
    """What the data asks of a micro-step: its longest sequence (both of a pair), at most so many tokens in one
    optimizer step, and the share of them that is supervised."""

    longest_tokens: int
    step_tokens: int | None = None  # None: more than any budget
    supervised_share: float = 1.0

    def micro_tokens(self, budget: int) -> int:
        """Of the largest micro-step: the budget, the longest example where that is longer, the whole step where
        that is less."""
        most = budget if self.step_tokens is None else min(budget, self.step_tokens)
        return max(most, self.longest_tokens)


def weight_bytes(quantization: Quantization, double: bool, element: int) -> float:
    """Of one weight of a linear layer in a block; `element`: bytes of the compute precision."""
    if quantization.is_4bit:
        return NF4_BYTES if double else SINGLE_4BIT_BYTES
    return 1.0 if quantization is Quantization.INT8 else element  # a row's one constant is nothing beside it


def memory(
    resolved: Resolved,
    shape: ModelShape,
    execution: Execution | None = None,
    workload: Workload | None = None,
    *,
    on_gpu: bool = True,
) -> dict[str, int]:
    """Bytes at the peak, by part. Without `execution`: bfloat16 and the smallest micro-step; without `workload`:
    packs of the budget, all supervised."""
    is_full = resolved.training is Training.FULL
    element = FLOAT32 if is_full or (execution is not None and execution.precision == "float32") else 2
    budget = execution.micro_tokens if execution is not None else LEAST_MICRO_TOKENS
    tokens = (workload or Workload(resolved.max_example_tokens)).micro_tokens(budget)
    share = workload.supervised_share if workload is not None else 1.0
    recomputes = execution is not None and execution.checkpointing
    trainable = trainable_parameters(shape, resolved.lora)
    others = max(0, shape.parameters - shape.linear_parameters)
    held = _held(resolved, execution)
    linears = shape.linear_parameters * weight_bytes(held, resolved.double_quantization, element)
    return {
        "weights": int(linears) + others * element,
        "adapter": 0 if is_full else trainable * FLOAT32,
        "gradients": trainable * FLOAT32,
        "optimizer": 2 * trainable * FLOAT32,  # Adam's moments
        "activations": int(_activations(resolved, shape, tokens, element, held, recomputes, on_gpu)),
        "head": int(_head(shape, tokens * share, element)),
        "saving": 0 if on_gpu else 3 * trainable * FLOAT32,  # a snapshot's bytes: weights and moments once more
        "runtime": RUNTIME_BYTES if on_gpu else CPU_RUNTIME_BYTES,
    }


def _held(resolved: Resolved, execution: Execution | None) -> Quantization:
    """How the linear layers stay in memory."""
    return Quantization.NONE if execution is not None and execution.dequantised else resolved.quantization


def _activations(
    resolved: Resolved, shape: ModelShape, tokens: int, element: int, held: Quantization, recomputes: bool, on_gpu: bool
) -> float:
    """Kept for the backward pass, and the largest dequantised weight, with what the allocator takes for them. Under
    checkpointing each layer keeps its input, and one layer at a time all the rest.

    On a CPU every kept input lies where the layer's widest tensor ended, and leaves a hole of that size which the
    next layer's do not fit into.
    """
    heap = GPU_HEAP if on_gpu else CPU_HEAP
    layer = tokens * _layer_bytes(resolved, shape, element, recomputes, on_gpu)
    widest = max(inward * outward for inward, outward in shape.linears().values())
    at_once = layer if recomputes else shape.layers * layer
    if resolved.lora is not None and element < FLOAT32:
        factors = trainable_parameters(shape, resolved.lora) * element  # A and B as they are multiplied with
        at_once += factors / shape.layers if recomputes else factors
    if held is not Quantization.NONE:
        at_once += widest * element
    if not recomputes:
        return heap * at_once
    hole = max(shape.ffn * element, shape.heads * shape.head_dim * FLOAT32)
    kept = heap * shape.hidden * element if on_gpu else shape.hidden * element + hole
    return shape.layers * tokens * kept + heap * at_once


def _layer_bytes(resolved: Resolved, shape: ModelShape, element: int, recomputes: bool, on_gpu: bool) -> float:
    """Per token of one block, by the tensors that autograd saves. A block that is run again as a whole keeps all of
    its parts meanwhile; else norms and gated MLPs are made anew from less."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Both norms keep their input, in float32 where they are trained, and give their output to the linears
    norms = 2 * shape.hidden * ((FLOAT32 if recomputes or resolved.training is Training.FULL else element) + element)
    # On a GPU q, k, v and the output, which the next linear shares; on a CPU the four in float32, with keys and
    # values repeated for every head, and that linear's input
    attention = element * (2 * query + 2 * key) if on_gpu else FLOAT32 * 4 * query + element * query
    feed_forward = (4 if recomputes else 2) * shape.ffn * element  # gate and up; its activation, and their product
    adapted = 0.0
    if resolved.lora is not None:
        linears = shape.linears()
        adapted = len(linears) * resolved.lora.rank * element
        if resolved.lora.dropout > 0.0:
            adapted += sum(inward for inward, _ in linears.values())  # a byte for each input that is kept
    return norms + attention + feed_forward + adapted


def _head(shape: ModelShape, supervised: float, element: int) -> float:
    """One chunk of logits: in the compute precision, in float32, and their probabilities."""
    copies = 2 * FLOAT32 + (element if element < FLOAT32 else 0)
    return min(supervised * shape.vocab, max(LOGITS_ELEMENTS, shape.vocab)) * copies


def choose(
    resolved: Resolved,
    shape: ModelShape,
    workload: Workload,
    first: Execution,
    *,
    most_tokens: int,
    room_bytes: float,
    on_gpu: bool,
) -> Execution:
    """The most tokens per micro-step up to `most_tokens` for which the plan stays within `room_bytes`, doubling from
    `first`. Where not even that does: with recomputation. On a GPU 4-bit weights are dequantised once where that
    fits beside it; on a CPU dequantising is two per cent of a step, and the memory is everybody's."""

    def fits(execution: Execution) -> bool:
        return sum(memory(resolved, shape, execution, workload, on_gpu=on_gpu).values()) <= room_bytes

    chosen = first
    if not fits(chosen):
        chosen = first.model_copy(update={"checkpointing": True})
    while (doubled := chosen.micro_tokens * 2) <= most_tokens:
        larger = chosen.model_copy(update={"micro_tokens": doubled})
        if not fits(larger):
            break
        chosen = larger
    dequantised = chosen.model_copy(update={"dequantised": True})
    return dequantised if on_gpu and resolved.quantization.is_4bit and fits(dequantised) else chosen
