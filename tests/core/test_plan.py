"""The plan's arithmetic: figures known from public models, every auto with its reason, every refusal."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bases.model_shape import shape_of, trainable_parameters
from core.data.jsonl import Json
from core.errors import AttuneError, InvalidExample
from core.planning.data_counts import Counter, DataCounts
from core.planning.dry_run import workload_of
from core.planning.learning_rate import base_learning_rate
from core.planning.memory_plan import NF4_BYTES, Workload, choose, memory
from core.planning.plan import resolve
from core.rendering.render import Rendered
from core.spec import MAX_LEARNING_RATE, Execution, Hyperparameters, LoraChoice, LoraSettings, Method, Quantization

LLAMA3_8B: dict[str, Json] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
LLAMA2_7B: dict[str, Json] = {
    **LLAMA3_8B,
    "intermediate_size": 11008,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
QWEN3_06B: dict[str, Json] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
PHI3_MINI: dict[str, Json] = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
}
TINY: dict[str, Json] = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "vocab_size": 1400,
    "max_position_embeddings": 512,
}
SHAPE = shape_of(LLAMA3_8B)
DATA = DataCounts(examples=1000, tokens=200_000, supervised_tokens=50_000, longest_tokens=900, longest_line=17)
RANK_16 = LoraSettings(rank=16, scale=2.0, dropout=0.0)


def counts(examples: int) -> DataCounts:
    return replace(DATA, examples=examples, tokens=200 * examples, supervised_tokens=50 * examples)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(LLAMA3_8B, 8_030_261_248), (LLAMA2_7B, 6_738_415_616), (PHI3_MINI, 3_821_079_552)],
)
def test_parameters_are_those_of_the_published_weights(config: dict[str, Json], parameters: int) -> None:
    assert shape_of(config).parameters == parameters


@pytest.mark.parametrize(
    ("config", "trainable"),
    [(LLAMA3_8B, 41_943_040), (LLAMA2_7B, 39_976_960), (QWEN3_06B, 10_092_544), (PHI3_MINI, 25_165_824)],
)
def test_trainable_parameters_are_those_peft_prints(config: dict[str, Json], trainable: int) -> None:
    assert trainable_parameters(shape_of(config), RANK_16) == trainable


def test_targets_are_endings_of_paths() -> None:
    def trained(*targets: str) -> int:
        return trainable_parameters(SHAPE, RANK_16.model_copy(update={"target_modules": targets}))

    queries_and_values = 32 * 16 * (4096 + 4096 + 4096 + 1024)
    assert trained("q_proj", "v_proj") == queries_and_values
    assert trained("self_attn.q_proj", "v_proj") == queries_and_values
    assert trained("layers.3.self_attn.q_proj") == 16 * (4096 + 4096)
    assert trained("proj") == 0


def test_a_nested_configuration_and_a_known_count_are_used() -> None:
    shape = shape_of({"model_type": "gemma3", "text_config": TINY, "tie_word_embeddings": True}, 2_000_000)
    assert (shape.hidden, shape.head_dim, shape.tied, shape.parameters) == (192, 48, True, 2_000_000)
    with pytest.raises(AttuneError, match="does not say hidden_size") as caught:
        shape_of({})
    assert caught.value.code == "unsupported_base_model"


def test_memory_by_part() -> None:
    resolved, _ = resolve(Hyperparameters(), DATA, None, SHAPE)
    parts = memory(resolved, SHAPE)
    assert math.isclose(NF4_BYTES * 8, 4.127, abs_tol=0.0005)  # bits a weight: QLoRA, section 3
    assert parts["weights"] == int(32 * 218_103_808 * NF4_BYTES) + 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert parts["adapter"] == parts["gradients"] == parts["optimizer"] // 2 == 4 * 41_943_040
    assert all(size > 0 for name, size in parts.items() if name != "saving")

    sixteen, _ = resolve(Hyperparameters(quantization=Quantization.NONE), DATA, None, SHAPE)
    assert memory(sixteen, SHAPE)["weights"] == 2 * 8_030_261_248

    small = Execution(precision="bfloat16", micro_tokens=512, threads=1)
    wide = small.model_copy(update={"micro_tokens": 4096})
    recomputed = wide.model_copy(update={"checkpointing": True})
    # A micro-step holds the longest example at least, and no more than a step has
    assert memory(resolved, SHAPE, small)["head"] * 4096 >= memory(resolved, SHAPE, wide)["head"] * 900
    assert memory(resolved, SHAPE, small, Workload(100))["activations"] < parts["activations"]
    few = memory(resolved, SHAPE, wide, Workload(100, step_tokens=512))
    assert few["activations"] == memory(resolved, SHAPE, small, Workload(100))["activations"]
    assert memory(resolved, SHAPE, recomputed)["activations"] * 5 < memory(resolved, SHAPE, wide)["activations"]


def test_the_most_tokens_that_fit_are_chosen_and_recomputation_only_where_nothing_else_fits() -> None:
    resolved, _ = resolve(Hyperparameters(), DATA, None, SHAPE)
    first = Execution(precision="bfloat16", micro_tokens=1024, threads=1)

    def chosen(room_gib: float) -> tuple[int, bool]:
        found = choose(resolved, SHAPE, Workload(900), first, most_tokens=16384, room_bytes=room_gib * 1024**3,
                       on_gpu=True)  # fmt: skip
        return found.micro_tokens, found.checkpointing

    assert chosen(1000) == (16384, False)
    roomy = choose(resolved, SHAPE, Workload(900), first, most_tokens=1024, room_bytes=60 * 1024**3, on_gpu=True)
    assert roomy.dequantised
    assert memory(resolved, SHAPE, roomy)["weights"] == 2 * SHAPE.parameters
    assert not choose(resolved, SHAPE, Workload(900), first, most_tokens=1024, room_bytes=60 * 1024**3,
                      on_gpu=False).dequantised  # fmt: skip
    assert chosen(24)[0] < 16384
    assert not chosen(24)[1]
    needed = sum(memory(resolved, SHAPE, first, Workload(900)).values()) / 1024**3
    assert chosen(needed) == (1024, False)
    assert chosen(needed - 0.5)[1]


def test_learning_rates_fall_with_size() -> None:
    rates = [base_learning_rate(replace(SHAPE, parameters=10**power)) for power in range(6, 13)]
    assert rates == sorted(rates, reverse=True)
    assert base_learning_rate(shape_of(LLAMA2_7B)) == 2e-4
    assert base_learning_rate(replace(SHAPE, parameters=65_000_000_000)) == 1e-4
    assert base_learning_rate(shape_of(TINY)) == 3e-3
    assert max(rates) < MAX_LEARNING_RATE


def test_all_autos() -> None:
    resolved, reasons = resolve(Hyperparameters(), DATA, counts(100), SHAPE)
    assert (resolved.n_epochs, resolved.batch_size, resolved.total_steps) == (3, 8, 375)
    assert (resolved.learning_rate_multiplier, resolved.learning_rate) == (1.0, 2e-4)
    assert resolved.lora == RANK_16
    assert resolved.quantization is Quantization.NF4
    assert resolved.max_example_tokens == 900
    assert (resolved.warmup_steps, resolved.max_grad_norm, resolved.weight_decay) == (12, 1.0, 0.0)
    assert (resolved.checkpoint_every_steps, resolved.validation_every_steps) == (125, 25)
    names = set(Hyperparameters.model_fields) - {"lora", "beta"} | {
        f"lora.{name}" for name in LoraSettings.model_fields
    }
    assert set(reasons) == names | {"learning_rate"}
    assert all(len(reason) > 10 for reason in reasons.values())
    assert "41.9 M parameters" in reasons["lora.rank"]


def test_a_short_run_takes_a_higher_rate_and_says_why() -> None:
    short, reasons = resolve(Hyperparameters(max_steps=24), DATA, None, SHAPE)
    assert (short.learning_rate_multiplier, short.learning_rate) == (1.5, pytest.approx(3e-4))
    assert "QLoRA's value for up to 13 B" in reasons["learning_rate"]
    assert "24 optimizer steps are few, so 15 times the full-tuning rate" in reasons["learning_rate"]
    assert "24 steps" in reasons["learning_rate_multiplier"]
    assert resolve(Hyperparameters(max_steps=100), DATA, None, SHAPE)[0].learning_rate == 2e-4
    chosen, why = resolve(Hyperparameters(max_steps=24, learning_rate_multiplier=1.0), DATA, None, SHAPE)
    assert (chosen.learning_rate, "few" in why["learning_rate"]) == (2e-4, False)
    preferring, _ = resolve(Hyperparameters(max_steps=24), DATA, None, SHAPE, Method.DPO)
    assert preferring.learning_rate_multiplier == 1.0


def test_what_is_chosen_stays() -> None:
    chosen = Hyperparameters(
        n_epochs=7,
        batch_size=64,
        learning_rate_multiplier=0.5,
        lora=LoraChoice(rank=64, alpha=16, dropout=0.1, target_modules=["v_proj", "q_proj"]),
        quantization=Quantization.NONE,
        max_example_tokens=1024,
        warmup_fraction=0,
        max_grad_norm=0.3,
        weight_decay=0.01,
        validation_every_steps=9,
    )
    resolved, reasons = resolve(chosen, DATA, None, SHAPE)
    assert (resolved.n_epochs, resolved.batch_size, resolved.total_steps) == (7, 64, 7 * 16)
    assert resolved.learning_rate == 1e-4
    assert resolved.lora == LoraSettings(rank=64, scale=0.25, dropout=0.1, target_modules=("q_proj", "v_proj"))
    assert (resolved.max_example_tokens, resolved.warmup_steps, resolved.validation_every_steps) == (1024, 0, 9)
    assert (resolved.max_grad_norm, resolved.weight_decay) == (0.3, 0.01)
    assert reasons["n_epochs"] == reasons["lora.rank"] == "as you chose"
    assert reasons["lora.scale"] == "alpha 16 over rank 64"


@given(examples=st.integers(10, 2_000_000), validation=st.none() | st.integers(1, 10_000))
def test_every_size_of_file_gets_a_sound_plan(examples: int, validation: int | None) -> None:
    held_out = None if validation is None else counts(validation)
    started = time.perf_counter()
    resolved, _ = resolve(Hyperparameters(), counts(examples), held_out, SHAPE)
    memory(resolved, SHAPE)
    elapsed_s = time.perf_counter() - started
    assert elapsed_s < 0.5  # far above the 5 ms it takes, for a busy machine
    assert 1 <= resolved.n_epochs <= 10
    assert 1 <= resolved.batch_size <= 32
    assert resolved.total_steps == resolved.n_epochs * resolved.checkpoint_every_steps
    assert resolved.checkpoint_every_steps == math.ceil(examples / resolved.batch_size)
    assert resolved.total_steps >= 80
    assert 0 < resolved.warmup_steps < resolved.total_steps / 10
    if held_out is None:
        assert resolved.validation_every_steps == resolved.total_steps
    else:
        assert 10 <= resolved.total_steps / resolved.validation_every_steps <= 20


def test_a_plan_answers_at_once() -> None:
    fastest = math.inf
    for _ in range(20):
        started = time.perf_counter()
        resolve(Hyperparameters(), DATA, counts(100), SHAPE)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.005


@pytest.mark.parametrize(
    ("data", "validation", "choice", "code", "param", "text"),
    [
        (
            counts(3),
            None,
            {},
            "invalid_n_examples",
            "training_file",
            "Training file has 3 example(s), but must have at least 10 examples",
        ),
        (
            DATA,
            counts(0),
            {},
            "invalid_n_examples",
            "validation_file",
            "Validation file has 0 example(s), but must have at least 1 examples",
        ),
        (replace(DATA, supervised_tokens=0), None, {}, "no_supervised_tokens", "training_file", "no token to learn"),
        (DATA, replace(DATA, supervised_tokens=0), {}, "no_supervised_tokens", "validation_file", "no token to learn"),
        (
            replace(DATA, longest_tokens=9000),
            None,
            {},
            "example_too_long",
            "training_file",
            "line 17 of the training file has 9000 tokens, but at most 8192 can be trained on; shorten or split it",
        ),
        (
            DATA,
            replace(DATA, longest_tokens=950, longest_line=3),
            {"max_example_tokens": 900},
            "example_too_long",
            "validation_file",
            "line 3 of the validation file has 950 tokens, but at most 900 can be trained on; shorten or split it "
            "or raise max_example_tokens (at most 8192)",
        ),
        (
            DATA,
            None,
            {"max_example_tokens": 10_000},
            "invalid_max_example_tokens",
            "hyperparameters.max_example_tokens",
            "at most 8192 tokens",
        ),
        (
            DATA,
            None,
            {"learning_rate_multiplier": 30},
            "invalid_learning_rate",
            "hyperparameters.learning_rate_multiplier",
            "learning_rate_multiplier 30 times the base rate 0.0002 is 0.006, above 0.005",
        ),
    ],
)
def test_refusals(
    data: DataCounts, validation: DataCounts | None, choice: dict[str, int], code: str, param: str, text: str
) -> None:
    with pytest.raises(AttuneError) as caught:
        resolve(Hyperparameters.model_validate(choice), data, validation, SHAPE)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert text in caught.value.message


def test_counting() -> None:
    counter = Counter()
    counter.add(1, [Rendered([1, 2, 3], [False, True, True])])
    counter.add(5, [Rendered([1, 2], [False, True]), Rendered([1, 2, 3, 4], [False, False, False, True])])
    assert counter.counts() == DataCounts(2, 9, 4, 4, 5)
    with pytest.raises(InvalidExample, match="line 6") as caught:
        counter.add(6, [Rendered([1, 2], [False, False])])
    assert (caught.value.code, caught.value.line) == ("no_supervised_tokens", 6)


def test_the_autos_of_preferences() -> None:
    resolved, reasons = resolve(Hyperparameters(), DATA, None, SHAPE, Method.DPO)
    supervised, _ = resolve(Hyperparameters(), DATA, None, SHAPE)
    assert (resolved.method, resolved.beta, resolved.n_epochs) == (Method.DPO, 0.1, 1)
    assert (supervised.method, supervised.beta) == (Method.SUPERVISED, None)
    assert resolved.learning_rate == pytest.approx(supervised.learning_rate / 10)
    assert "tenth" in reasons["learning_rate"]
    assert set(Hyperparameters.model_fields) - {"lora"} <= reasons.keys()
    few, _ = resolve(Hyperparameters(), counts(50), None, SHAPE, Method.DPO)
    assert few.n_epochs == 3
    chosen, why = resolve(Hyperparameters(beta=2, n_epochs=5), DATA, None, SHAPE, Method.DPO)
    assert (chosen.beta, chosen.n_epochs, why["beta"]) == (2.0, 5, "as you chose")
    # Both sequences of a pair are in one micro-step
    longest = resolved.max_example_tokens * 2
    pair, single = workload_of(resolved, counts(50)), workload_of(supervised, counts(50))
    assert pair.longest_tokens == 2 * single.longest_tokens
    assert memory(resolved, SHAPE, workload=Workload(2 * longest))["head"] > 0
