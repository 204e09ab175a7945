"""Attention over a packed row: every segment sees itself alone, at the cost of its own square.

Registered with transformers as "attune". A call that brings `segments` runs packed (training, validation);
any other call is transformers' own SDPA with its masks, so that one loaded base trains and generates.

Shape legend: T tokens of the pack, H heads, D head width, N segments of a bucket, L longest of the bucket.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "attune"
# Arguments by which an architecture changes the softmax in ways that neither path below knows.
UNKNOWN_ARGUMENTS = ("s_aux", "position_bias")


class UnsupportedArchitecture(ValueError):
    """The base computes something that packed training does not reproduce; the message says what."""


LEAST_BOUNDS = 64  # segments of a static shape
LEAST_LONGEST = 128  # tokens


def next_power(count: int, least: int) -> int:
    """Of two, at least `least`, which is one."""
    return max(least, 1 << (count - 1).bit_length())


@dataclass(frozen=True)
class Bucket:
    """Segments of like length, padded to the longest. Right padding needs no mask under a causal one."""

    rows: Tensor  # [N*L] indices into the pack's T; padding repeats the segment's first token
    count: int  # N
    length: int  # L
    real: Tensor  # [sum of the lengths] indices into N*L that are no padding
    tokens: Tensor  # [sum of the lengths] the pack's T index of each of `real`


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed row lie. One object serves every layer of a forward pass."""

    lengths: tuple[int, ...]  # sum is T
    device: torch.device
    static_shapes: bool = False  # varlen's arguments have few shapes and values too

    @cached_property
    def buckets(self) -> list[Bucket]:
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        order = sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            # A quarter of padding costs less than another kernel launch; more does not.
            if groups and self.lengths[i] <= self.lengths[groups[-1][0]] * 5 // 4 + 16:
                groups[-1].append(i)
            else:
                groups.append([i])
        return [self._bucket(group, starts) for group in groups]

    def _bucket(self, group: list[int], starts: list[int]) -> Bucket:
        length = self.lengths[group[-1]]
        rows: list[Tensor] = []
        real: list[Tensor] = []
        tokens: list[Tensor] = []
        for n, i in enumerate(group):
            own = torch.arange(starts[i], starts[i] + self.lengths[i])
            rows.append(F.pad(own, (0, length - len(own)), value=starts[i]))
            real.append(torch.arange(n * length, n * length + len(own)))
            tokens.append(own)
        return Bucket(
            rows=torch.cat(rows).to(self.device),
            count=len(group),
            length=length,
            real=torch.cat(real).to(self.device),
            tokens=torch.cat(tokens).to(self.device),
        )

    @cached_property
    def cumulative(self) -> Tensor:
        """[number of segments + 1] int32 boundaries, as varlen kernels want them; with static shapes as many as the
        next power of two, by segments of no token at the end."""
        empty = next_power(len(self.lengths), LEAST_BOUNDS) - len(self.lengths) if self.static_shapes else 0
        lengths = (0, *self.lengths, *[0] * empty)
        return torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32).to(self.device)

    @cached_property
    def longest(self) -> int:
        """At least the longest segment's tokens: kernels ask for a bound."""
        longest = max(self.lengths)
        return next_power(longest, LEAST_LONGEST) if self.static_shapes else longest


class _Take(torch.autograd.Function):
    """x[rows] whose backward gathers instead of accumulating: a padded row's gradient is exactly zero, since
    its output is dropped and no real query looks at it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x_THD: Tensor, bucket: Bucket) -> Tensor:
        ctx.bucket, ctx.shape = bucket, x_THD.shape
        return x_THD.index_select(0, bucket.rows)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        bucket: Bucket = ctx.bucket
        out = grad.new_zeros(ctx.shape)
        return out.index_copy_(0, bucket.tokens, grad.index_select(0, bucket.real)), None


class _Put(torch.autograd.Function):
    """The inverse: the real rows of every bucket, back at their places in the pack."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tokens: int, buckets: list[Bucket], *outs: Tensor) -> Tensor:
        ctx.buckets = buckets
        whole = outs[0].new_empty((tokens, *outs[0].shape[1:]))
        for bucket, out in zip(buckets, outs, strict=True):
            whole.index_copy_(0, bucket.tokens, out.index_select(0, bucket.real))
        return whole

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts: list[Tensor | None] = [None, None]
        for bucket in ctx.buckets:
            part = grad.new_zeros((bucket.count * bucket.length, *grad.shape[1:]))
            parts.append(part.index_copy_(0, bucket.real, grad.index_select(0, bucket.tokens)))
        return tuple(parts)


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """[L, L] True where query i may see key j: j <= i and i - j < window."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def _causal(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """[N, H, L, D] attention of each of N rows with itself; k and v already have H heads."""
    length = q.shape[2]
    windowed = window is not None and window < length
    if softcap is None:
        if not windowed and q.device.type == "cpu" and q.dtype != torch.float32:
            # The CPU kernel's 16-bit backward takes three times as long as its float32 one
            wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True, scale=scaling)
            return wide.to(q.dtype)
        if not windowed:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=_window_mask(length, window or length, q.device), scale=scaling
        )
    # Gemma 2 caps its scores: cap * tanh(score / cap), https://arxiv.org/abs/2408.00118 section 2
    scores = q @ k.transpose(2, 3) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    mask = _window_mask(length, window if windowed and window else length, q.device)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def _per_bucket(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    repeats = q_THD.shape[1] // k_THD.shape[1]
    outs: list[Tensor] = []
    for bucket in segments.buckets:
        q, k, v = (
            _Take.apply(x, bucket).view(bucket.count, bucket.length, *x.shape[1:]).transpose(1, 2)
            for x in (q_THD, k_THD, v_THD)
        )
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        out = _causal(q, k, v, scaling, window, softcap)
        outs.append(out.transpose(1, 2).reshape(bucket.count * bucket.length, out.shape[1], out.shape[3]))
    return _Put.apply(q_THD.shape[0], segments.buckets, *outs)


def _varlen(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    """One kernel for the whole pack; CUDA with 16-bit floats only."""
    from torch.nn.attention.varlen import varlen_attn

    named = inspect.signature(varlen_attn).parameters
    extra: dict[str, object] = {}
    # torch 2.11 says causal by a flag, 2.13 by a window that looks back without end
    if "window_size" in named:
        extra["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        extra["is_causal"] = True
    if "enable_gqa" in named:
        extra["enable_gqa"] = k_THD.shape[1] != q_THD.shape[1]
    elif k_THD.shape[1] != q_THD.shape[1]:
        repeats = q_THD.shape[1] // k_THD.shape[1]
        k_THD, v_THD = k_THD.repeat_interleave(repeats, 1), v_THD.repeat_interleave(repeats, 1)
    bounds, longest = segments.cumulative, segments.longest
    out = varlen_attn(q_THD, k_THD, v_THD, bounds, bounds, longest, longest, scale=scaling, **extra)
    assert isinstance(out, Tensor)
    return out


def _has_varlen(q_THD: Tensor, window: int | None, softcap: float | None) -> bool:
    if q_THD.device.type != "cuda" or softcap is not None or q_THD.shape[-1] > 256:
        return False
    if q_THD.dtype not in (torch.bfloat16, torch.float16) or torch.cuda.get_device_capability()[0] < 8:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return window is None or "window_size" in inspect.signature(varlen_attn).parameters


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Segments | None = None,
    **rest: object,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query [1, H, T, D], key and value [1, Hkv, T, D] -> [1, T, H, D]."""
    for name in UNKNOWN_ARGUMENTS:
        if rest.get(name) is not None:
            raise UnsupportedArchitecture(f"{type(module).__name__} attends with {name}, which is not supported")
    if segments is None:
        if softcap is not None:
            return _capped_unpacked(query, key, value, attention_mask, scaling, softcap), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    q_THD, k_THD, v_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    if _has_varlen(q_THD, sliding_window, softcap):
        out = _varlen(q_THD, k_THD, v_THD, segments, scaling, sliding_window)
    else:
        out = _per_bucket(q_THD, k_THD, v_THD, segments, scaling, sliding_window, softcap)
    return out.unsqueeze(0), None


def _capped_unpacked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Capped scores under transformers' mask (boolean, or none where every key is visible or plain causal)."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        seen = key.shape[2] - query.shape[2]
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril(seen)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value).transpose(1, 2).contiguous()


def register() -> None:
    """Make `attn_implementation="attune"` known to transformers; unpacked calls get SDPA's masks."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def no_mask(device: torch.device) -> Tensor:
    """A mask of four dimensions is passed through unread, so that no [T, T] mask is built for a pack."""
    return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)
