"""Does the plan hold on this device? One worst-case pack before the first step, and the ladder for where it does not.

Every rung keeps the mathematics of a step the same: fewer tokens in each micro-step with more micro-steps, then
activations made again instead of kept, then weights dequantised for each product instead of once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from core.spec import Execution
from worker.engine.out_of_memory import AnyOutOfMemory, is_out_of_memory
from worker.engine.pack import Segment
from worker.engine.parallel import World
from worker.engine.randomness import random_states, restore_random_states
from worker.engine.worst_pack import Lengths

LEAST_TOKENS = 8  # of a micro-step's budget, as `Execution` bounds it
# Left free by a pack that counts as fitting: later ones leave other holes in the heap. Never touched, so it is no use
# of a CPU's memory
MARGIN_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Rung:
    execution: Execution
    message: str
    data: dict[str, str | int | float | bool | None]


class Ladder:
    """The rungs below each execution of one run. `tell` hears of those that are taken."""

    def __init__(self, lengths: Lengths, batch_size: int, world: World, tell: Callable[[Rung], None]) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._world = world
        self._tell = tell

    def prove(
        self, execution: Execution, try_worst: Callable[[Execution, list[Segment]], Exception | None]
    ) -> Execution:
        """The first execution from this one down for which `try_worst` gives no error: the run's largest pack fits.

        One that wants the base held otherwise is given back untried, for another run. Raises what the last rung did.
        """
        proven = execution
        while proven.dequantised == execution.dequantised:
            failure = try_worst(proven, self._worst_pack(proven))
            if not any(self._world.gather([failure is not None])):
                break
            rung = self.below(proven)
            if rung is None:
                raise failure or AnyOutOfMemory("another process of this job has not enough memory")
            self._tell(rung)
            proven = rung.execution
        return proven

    def below(self, execution: Execution) -> Rung | None:
        """What to try after `execution` was too much; None at the end of the ladder."""
        largest = sum(len(segment.token_ids) for segment in self._worst_pack(execution))
        return next_rung(execution, self._lengths.longest, largest)

    def _worst_pack(self, execution: Execution) -> list[Segment]:
        return self._lengths.worst_pack(execution.micro_tokens, self._batch_size)


def try_pack(
    run: Callable[[], None], parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer
) -> Exception | None:
    """`run` forwards and backwards beside all that a later step holds; the error where memory was not enough.

    Nothing is left of it: no gradient, and the random states are those of before.
    """
    states = random_states()
    failure: Exception | None = None
    held: list[torch.Tensor] = []
    try:
        held.append(torch.empty(MARGIN_BYTES, dtype=torch.uint8, device=parameters[0].device))
        if not optimizer.state:  # the two moments, which the first step makes
            held += [torch.zeros_like(one) for one in parameters for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # of an earlier micro-step
        run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failure = error.with_traceback(None)  # its frames hold the tensors
    del held
    optimizer.zero_grad(set_to_none=True)
    restore_random_states(states)
    if failure is not None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return failure


def next_rung(execution: Execution, longest_tokens: int, largest_tokens: int) -> Rung | None:
    """What to try after `execution` was too much; None at the end of the ladder.

    `longest_tokens`: of the longest unit; `largest_tokens`: of the largest pack that `execution` makes.
    """
    tokens = execution.micro_tokens
    while tokens // 2 >= largest_tokens:  # half of a budget that no pack comes near changes nothing
        tokens //= 2
    if tokens > longest_tokens and tokens // 2 >= LEAST_TOKENS:
        lower = execution.model_copy(update={"micro_tokens": max(tokens // 2, LEAST_TOKENS)})
        return Rung(
            lower,
            f"The device's memory is not enough for {tokens} tokens at a time: each optimizer step is made of more "
            f"micro-steps of {lower.micro_tokens}. The result is the same.",
            {"micro_tokens": lower.micro_tokens, "checkpointing": lower.checkpointing},
        )
    if not execution.checkpointing:
        lower = execution.model_copy(update={"checkpointing": True})
        return Rung(
            lower,
            f"The device's memory is not enough for the longest example, {longest_tokens} tokens: activations are "
            "made again in the backward pass, which takes about a third longer. The result is the same.",
            {"micro_tokens": lower.micro_tokens, "checkpointing": True},
        )
    if execution.dequantised:
        lower = execution.model_copy(update={"dequantised": False})
        return Rung(
            lower,
            "The device's memory is not enough for dequantised weights beside the longest example, "
            f"{longest_tokens} tokens: the base stays in 4 bit and is dequantised for each product. The result is "
            "the same.",
            {"micro_tokens": lower.micro_tokens, "checkpointing": True, "dequantised": False},
        )
    return None
