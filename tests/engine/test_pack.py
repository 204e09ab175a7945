"""Packing: no token lost, no example sees another, and neither packing nor accumulation changes a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.spec import LoraSettings, Quantization
from worker.engine.attention import Segments
from worker.engine.lora import LoraModules, attach
from worker.engine.loss import Head, mean_loss, pack_loss
from worker.engine.model import hidden_states, load_base
from worker.engine.pack import Pack, Segment, pack_micro_steps, row_shape
from worker.engine.preference import log_likelihoods
from worker.engine.verify import verify

CPU = torch.device("cpu")
LENGTHS = (5, 60, 17, 33, 34, 90, 8, 41)


def make_segments(lengths: Sequence[int] = LENGTHS) -> list[Segment]:
    generator = np.random.default_rng(0)
    return [
        Segment(generator.integers(3, 300, n).astype(np.uint32), np.arange(n) >= max(1, n // 3), line=i + 1)
        for i, n in enumerate(lengths)
    ]


def adapted(base_folder: Path, quantization: Quantization) -> tuple[PreTrainedModel, LoraModules]:
    model = load_base(base_folder, quantization, "float32", "cpu")
    modules = attach(model, LoraSettings(rank=4, scale=2.0, dropout=0.0), seed=5)
    generator = torch.Generator().manual_seed(1)
    for parameter in modules.parameters():
        parameter.data.normal_(std=0.1, generator=generator)
    return model, modules


def gradient(
    model: PreTrainedModel, modules: LoraModules, segments: list[Segment], micro_steps: list[list[int]]
) -> tuple[float, Tensor]:
    """(loss of one optimizer step, all gradients in one row)"""
    supervised = sum(int(segment.mask.sum()) for segment in segments)
    head, total = Head(model), 0.0
    for parameter in modules.parameters():
        parameter.grad = None
    for micro in micro_steps:
        loss, _ = pack_loss(model, head, Pack.of([segments[i] for i in micro], CPU), 1.0 / supervised)
        loss.backward()
        total += loss.item()
    grads = [parameter.grad for parameter in modules.parameters()]
    return total, torch.cat([grad.flatten() for grad in grads if grad is not None])


@pytest.mark.parametrize("budget", [8, 40, 100, 1000])
def test_every_segment_is_in_exactly_one_group_within_the_budget(budget: int) -> None:
    groups = pack_micro_steps(LENGTHS, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(LENGTHS)))
    for group in groups:
        assert len(group) == 1 or sum(LENGTHS[i] for i in group) <= budget


def test_a_pack_keeps_every_token_and_supervises_what_the_masks_say() -> None:
    segments = make_segments()
    pack = Pack.of(segments, CPU)
    assert pack.token_ids.tolist() == [token for segment in segments for token in segment.token_ids.tolist()]
    wanted = [t for s in segments for t, on in zip(s.token_ids.tolist(), s.mask.tolist(), strict=True) if on]
    assert pack.targets.tolist() == wanted
    assert pack.token_ids[pack.rows + 1].tolist() == wanted
    assert pack.position_ids.tolist() == [p for n in LENGTHS for p in range(n)]


def test_attention_buckets_cover_every_token_once() -> None:
    buckets = Segments(LENGTHS, CPU).buckets
    assert len(buckets) > 1
    covered = torch.cat([bucket.tokens for bucket in buckets])
    assert sorted(covered.tolist()) == list(range(sum(LENGTHS)))


@pytest.mark.parametrize("quantization", list(Quantization))
def test_packing_and_accumulation_change_neither_loss_nor_gradient(
    base_folder: Path, quantization: Quantization
) -> None:
    model, modules = adapted(base_folder, quantization)
    segments = make_segments()
    one_by_one = [[i] for i in range(8)]
    loss, grad = gradient(model, modules, segments, one_by_one)
    assert grad.norm() > 0
    for micro_steps in ([list(range(8))], [[0, 1], [2, 3], [4, 5], [6, 7]], [[7, 2, 5, 0], [1, 3, 6, 4]]):
        packed_loss, packed_grad = gradient(model, modules, segments, micro_steps)
        assert packed_loss == pytest.approx(loss, rel=1e-6)
        assert (packed_grad - grad).norm() < 1e-5 * grad.norm()


def test_no_example_sees_another(base_folder: Path) -> None:
    model, _ = adapted(base_folder, Quantization.NONE)
    first, second = make_segments((20, 30))
    changed = Segment((second.token_ids + 1).astype(np.uint32), second.mask)
    with torch.no_grad():
        rows = [
            hidden_states(model, pack.token_ids, pack.position_ids, pack.segments)
            for pack in (Pack.of([first, second, first], CPU), Pack.of([first, changed, first], CPU))
        ]
    assert torch.equal(rows[0][:20], rows[1][:20])
    assert torch.equal(rows[0][50:], rows[1][50:])
    assert not torch.equal(rows[0][20:50], rows[1][20:50])


def test_loss_equals_transformers_own(base_folder: Path) -> None:
    """The whole chain against labels handed to the model: packed attention, head on rows, normalisation."""
    model, modules = adapted(base_folder, Quantization.NONE)
    segments = make_segments()
    ours = mean_loss(model, segments)
    nll, rows = 0.0, 0
    with torch.no_grad():
        for segment in segments:
            ids = torch.from_numpy(segment.token_ids.astype(np.int64))[None]
            labels = torch.where(torch.from_numpy(segment.mask)[None], ids, -100)
            count = int(segment.mask.sum())
            nll += float(model(input_ids=ids, labels=labels).loss) * count
            rows += count
    assert ours.supervised_tokens == rows
    assert ours.loss == pytest.approx(nll / rows, rel=1e-5)
    modules.activate(None)
    assert mean_loss(model, segments).loss != pytest.approx(ours.loss, rel=1e-3)


def test_a_base_whose_logits_are_scaled_otherwise_is_refused(base_folder: Path) -> None:
    model = load_base(base_folder, Quantization.NONE, "float32", "cpu")
    verify(model)
    model.config.final_logit_softcapping = 0.5  # Llama does not cap, so the trainer's head would be wrong
    with pytest.raises(Exception, match="not supported") as caught:
        verify(model)
    assert getattr(caught.value, "code", None) == "base_unusable"


@pytest.mark.parametrize("quantization", list(Quantization))
def test_rows_filled_up_to_a_static_shape_have_the_same_loss_and_gradient(
    base_folder: Path, quantization: Quantization
) -> None:
    model, modules = adapted(base_folder, quantization)
    found: list[tuple[Tensor, Tensor]] = []
    for static_shapes in (False, True):
        pack = Pack.of(make_segments(), CPU, static_shapes)
        assert len(pack.token_ids) == (384 if static_shapes else sum(LENGTHS))
        for parameter in modules.parameters():
            parameter.grad = None
        loss, right = pack_loss(model, Head(model), pack, 1.0 / len(pack.rows))
        loss.backward()
        grads = [parameter.grad for parameter in modules.parameters()]
        found.append((torch.stack([loss.detach(), right]), torch.cat([g.flatten() for g in grads if g is not None])))
    (plain, plain_grad), (filled, filled_grad) = found
    assert filled.tolist() == pytest.approx(plain.tolist(), rel=1e-6)
    assert (filled_grad - plain_grad).norm() < 1e-5 * plain_grad.norm()


def test_what_fills_a_row_up_is_no_sequence_of_a_pair(base_folder: Path) -> None:
    model, _ = adapted(base_folder, Quantization.NONE)
    plain, filled = (
        log_likelihoods(model, Head(model), Pack.of(make_segments(), CPU, static)) for static in (False, True)
    )
    assert len(plain[0]) == len(filled[0]) == len(LENGTHS)
    assert torch.allclose(plain[0], filled[0], rtol=1e-6)
    assert torch.equal(plain[1], filled[1])


def test_static_shapes_are_few_and_fill_a_row_up_by_little() -> None:
    shapes = {row_shape(tokens) for tokens in range(1, 16385)}
    assert len(shapes) == 40
    assert all(row_shape(shape) == shape for shape in shapes)
    assert all(tokens <= row_shape(tokens) <= max(tokens * 9 / 8, tokens + 127) for tokens in range(1, 16385, 7))


def test_what_a_varlen_kernel_gets_has_few_shapes_too() -> None:
    few, more = (Pack.of(make_segments(lengths), CPU, True).segments for lengths in (LENGTHS, LENGTHS[:5]))
    assert few.cumulative.shape == more.cumulative.shape == (65,)
    assert few.cumulative[-1] == sum(few.lengths) == 384
    assert few.longest == more.longest == 128
