"""From what a user chose and what the data holds to the numbers of a run, each with its reason in words.

Arithmetic on counts that preparation left behind: it answers at once, and the same counts give the same plan.
"""

from __future__ import annotations

import math

from core.bases.model_shape import ModelShape, rounded, trainable_parameters
from core.errors import AttuneError
from core.planning import autos
from core.planning.autos import CHOSEN
from core.planning.data_counts import DataCounts
from core.planning.learning_rate import peak_rate
from core.spec import Hyperparameters, LoraSettings, Method, Resolved, Training

MIN_EXAMPLES = 10
# rsLoRA's alpha: a scale of 2 at rank 16, where it is what LoRA's own is
_RSLORA_ALPHA = 8.0
_BETA = 0.1  # the paper's default (arXiv 2305.18290, section 6)


def passes(resolved: Resolved, data: DataCounts) -> float:
    """Over the training file; the last step of each may be short."""
    return resolved.total_steps / math.ceil(data.examples / resolved.batch_size)


def longest_allowed(hyper: Hyperparameters, shape: ModelShape) -> int:
    """Tokens that an example may have: what was chosen, else what the base reads."""
    return shape.context if hyper.max_example_tokens == "auto" else hyper.max_example_tokens


def resolve(
    hyper: Hyperparameters,
    data: DataCounts,
    validation: DataCounts | None,
    shape: ModelShape,
    method: Method = Method.SUPERVISED,
) -> tuple[Resolved, dict[str, str]]:
    """The numbers of the run, and for each hyperparameter why it is what it is.

    Raises `AttuneError`: invalid_n_examples, example_too_long, no_supervised_tokens, invalid_learning_rate,
    invalid_max_example_tokens.
    """
    _check_counts(data, "training_file", "Training file", MIN_EXAMPLES)
    if validation is not None:
        _check_counts(validation, "validation_file", "Validation file", 1)
    reasons: dict[str, str] = {}
    max_example_tokens = _max_example_tokens(hyper, data, validation, shape, reasons)
    n_epochs = _n_epochs(hyper, data, method, reasons)
    batch_size = _batch_size(hyper, data, n_epochs, reasons)
    steps_per_epoch = math.ceil(data.examples / batch_size)
    n_epochs, total_steps = autos.run_length(hyper, n_epochs, steps_per_epoch, reasons)
    multiplier, rate = peak_rate(hyper, shape, method, total_steps, reasons)
    beta = _beta(hyper, reasons) if method is Method.DPO else None
    quantization, double_quantization = autos.held(hyper, reasons)
    autos.explain_switches(hyper, reasons)
    lora = None if hyper.training is Training.FULL else _lora(hyper, data, shape, reasons)
    warmup_fraction = 0.03 if hyper.warmup_fraction == "auto" else hyper.warmup_fraction
    warmup_steps = math.ceil(warmup_fraction * total_steps)
    reasons["warmup_fraction"] = (
        f"3 % of {total_steps} steps, which spares the first steps a full rate on untrained moments"
        if hyper.warmup_fraction == "auto"
        else CHOSEN
    )
    max_grad_norm = 1.0 if hyper.max_grad_norm == "auto" else hyper.max_grad_norm
    reasons["max_grad_norm"] = (
        "1.0 touches only steps that an odd example makes large" if hyper.max_grad_norm == "auto" else CHOSEN
    )
    weight_decay = 0.0 if hyper.weight_decay == "auto" else hyper.weight_decay
    reasons["weight_decay"] = (
        "0: an adapter is small and starts from no change at all" if hyper.weight_decay == "auto" else CHOSEN
    )
    resolved = Resolved(
        method=method,
        beta=beta,
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate_multiplier=multiplier,
        learning_rate=rate,
        training=hyper.training,
        lora=lora,
        quantization=quantization,
        double_quantization=double_quantization,
        max_example_tokens=max_example_tokens,
        too_long=hyper.too_long,
        schedule=autos.schedule(hyper, reasons),
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        validation_every_steps=_validation_every(hyper, validation, total_steps, reasons),
        checkpoint_every_steps=steps_per_epoch,
        early_stopping_patience=hyper.early_stopping_patience,
        sample_prompts=tuple(hyper.sample_prompts),
        compare_quantizations=hyper.compare_quantizations,
    )
    return resolved, reasons


def _check_counts(counts: DataCounts, param: str, name: str, least: int) -> None:
    if counts.examples < least:
        dropped = f" ({len(counts.dropped_lines)} more are too long)" if counts.dropped_lines else ""
        raise AttuneError(
            f"{name} has {counts.examples} example(s), but must have at least {least} examples{dropped}",
            code="invalid_n_examples",
            param=param,
        )
    if counts.supervised_tokens == 0:
        raise AttuneError(
            f"{name} has no token to learn from; give at least one assistant message weight 1",
            code="no_supervised_tokens",
            param=param,
        )


def _max_example_tokens(
    hyper: Hyperparameters,
    data: DataCounts,
    validation: DataCounts | None,
    shape: ModelShape,
    reasons: dict[str, str],
) -> int:
    chosen = hyper.max_example_tokens
    if chosen != "auto" and chosen > shape.context:
        raise AttuneError(
            f"max_example_tokens is {chosen}, but this base model reads at most {shape.context} tokens",
            code="invalid_max_example_tokens",
            param="hyperparameters.max_example_tokens",
        )
    limit = longest_allowed(hyper, shape)
    files = [(data, "training_file")]
    if validation is not None:
        files.append((validation, "validation_file"))
    for counts, param in files:
        if counts.longest_tokens > limit:
            where = f"line {counts.longest_line}" if counts.longest_line else "the longest example"
            more = f" or raise max_example_tokens (at most {shape.context})" if limit < shape.context else ""
            raise AttuneError(
                f"{where} of the {param.replace('_', ' ')} has {counts.longest_tokens} tokens, but at most {limit} "
                f"can be trained on; shorten or split it{more}, or choose what becomes of such lines with too_long",
                code="example_too_long",
                param=param,
            )
    if chosen != "auto":
        reasons["max_example_tokens"] = CHOSEN
        return chosen
    longest = max(counts.longest_tokens for counts, _ in files)
    reasons["max_example_tokens"] = (
        f"the longest example has {longest} tokens, and the base reads up to {shape.context}; memory follows it"
    )
    return max(8, longest)


def _n_epochs(hyper: Hyperparameters, data: DataCounts, method: Method, reasons: dict[str, str]) -> int:
    if hyper.n_epochs != "auto":
        reasons["n_epochs"] = CHOSEN
        return hyper.n_epochs
    if method is Method.DPO:
        epochs = 3 if data.examples < 1_000 else 1
        reasons["n_epochs"] = (
            f"{data.examples} pairs are few, so each is seen 3 times"
            if epochs == 3
            else "one pass: more of them learn the pairs by heart and spoil the answers"
        )
        return epochs
    if data.examples < 100:
        epochs = min(10, math.ceil(300 / data.examples))
        reasons["n_epochs"] = f"{data.examples} examples are few, so each is seen {epochs} times"
    elif data.examples < 30_000:
        epochs = 3
        reasons["n_epochs"] = "three passes learn most tasks without learning the examples by heart"
    else:
        epochs = 2 if data.examples < 100_000 else 1
        reasons["n_epochs"] = f"{data.examples} examples are many, so {epochs} pass(es) are enough"
    return epochs


def _batch_size(hyper: Hyperparameters, data: DataCounts, n_epochs: int, reasons: dict[str, str]) -> int:
    if hyper.batch_size != "auto":
        reasons["batch_size"] = CHOSEN
        return hyper.batch_size
    share = min(32, max(8, math.ceil(0.002 * data.examples)))
    for_steps = max(1, data.examples * n_epochs // 100)
    if for_steps < share:
        reasons["batch_size"] = f"small, so that {data.examples} examples still make about 100 steps"
        return for_steps
    reasons["batch_size"] = (
        "0.2 % of the examples, from 8 to 32: LoRA learns better from many small steps than from few large ones"
    )
    return share


def _beta(hyper: Hyperparameters, reasons: dict[str, str]) -> float:
    if hyper.beta != "auto":
        reasons["beta"] = CHOSEN
        return float(hyper.beta)
    reasons["beta"] = "0.1, the DPO paper's: lower lets the model move further from where it started, higher less far"
    return _BETA


def _lora(hyper: Hyperparameters, data: DataCounts, shape: ModelShape, reasons: dict[str, str]) -> LoraSettings:
    choice = hyper.lora
    rank = 16 if choice.rank == "auto" else choice.rank
    reasons["lora.rslora"] = (
        "alpha over the square root of the rank (arXiv 2312.03732)" if choice.rslora else "alpha over the rank"
    )
    if choice.alpha is not None:
        scale = choice.alpha / (math.sqrt(rank) if choice.rslora else rank)
        reasons["lora.scale"] = f"alpha {choice.alpha:g} over {'the square root of ' * choice.rslora}rank {rank}"
    elif choice.rslora and choice.scale == "auto":
        scale = _RSLORA_ALPHA / math.sqrt(rank)
        reasons["lora.scale"] = f"alpha {_RSLORA_ALPHA:g} over the square root of rank {rank}: 2 at rank 16"
    else:
        scale = 2.0 if choice.scale == "auto" else choice.scale
        reasons["lora.scale"] = (
            "2 times B·A, whatever the rank, so that a learning rate fits every rank"
            if choice.scale == "auto"
            else CHOSEN
        )
    dropout = 0.0 if choice.dropout == "auto" else choice.dropout
    chosen = choice.target_modules
    targets = tuple(sorted(set(chosen))) if isinstance(chosen, list) else chosen
    lora = LoraSettings(rank=rank, scale=scale, dropout=dropout, rslora=choice.rslora, target_modules=targets)
    trainable = trainable_parameters(shape, lora)
    reasons["lora.rank"] = (
        f"16 trains {rounded(trainable)} for {rounded(data.supervised_tokens, 'tokens')} to learn from; with all "
        "layers adapted quality hardly changes from 8 to 256"
        if choice.rank == "auto"
        else CHOSEN
    )
    reasons["lora.dropout"] = (
        "0: short runs of a small adapter hardly overfit, and it costs speed" if choice.dropout == "auto" else CHOSEN
    )
    reasons["lora.target_modules"] = (
        "every linear layer: needed to match full fine-tuning (QLoRA, figure 2)" if targets == "all-linear" else CHOSEN
    )
    return lora


def _validation_every(
    hyper: Hyperparameters, validation: DataCounts | None, total_steps: int, reasons: dict[str, str]
) -> int:
    if hyper.validation_every_steps != "auto":
        reasons["validation_every_steps"] = CHOSEN
        return hyper.validation_every_steps
    if validation is None:
        reasons["validation_every_steps"] = "there is no validation file"
        return total_steps
    every = math.ceil(total_steps / 15)
    reasons["validation_every_steps"] = f"about {math.ceil(total_steps / every)} looks over the run"
    return every
