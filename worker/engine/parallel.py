"""One job on several devices: every process trains its share of each optimizer step, and gradients are summed.

torchrun starts the processes and says in the environment which is which. The first alone has the pipes: it hands
commands on, reports and writes files. The others end when its stdin closes, or with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from worker.engine.loss import Mean, Rewards
from worker.engine.out_of_memory import AnyOutOfMemory, is_out_of_memory

T = TypeVar("T")
# A warm engine waits for its next job in a collective; a process that dies is seen by torchrun, not by a timeout
PATIENCE = timedelta(days=365)


class World:
    """The processes of one engine. Alone, every method gives back what it got."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @staticmethod
    def joined() -> World:
        """This process among those that torchrun started; alone where it was started by itself."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return World()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        return World(dist.get_rank(), size)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Which of the units of these many tokens are this process's: the longest first, each to the process with
        the least so far. The same on every process, and no unit is nobody's."""
        if self.size == 1:
            return list(range(len(lengths)))
        loads = [0] * self.size
        own: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            rank = loads.index(min(loads))
            loads[rank] += lengths[i]
            if rank == self.rank:
                own.append(i)
        return sorted(own)

    def seed_step(self, seed: int, step: int) -> None:
        """Dropout of the other processes' shares is a function of seed, step and rank, so that only the first one's
        random state is in a snapshot."""
        if self.rank > 0:
            words = np.random.Philox(key=np.array([seed, step], dtype=np.uint64), counter=self.rank).random_raw(1)
            torch.manual_seed(int(words[0] >> 1))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every parameter's gradient becomes the sum over the processes, by one transfer."""
        if self.size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = grad.view_as(parameter)

    def all_or_none(self, run: Callable[[], T]) -> T:
        """What `run` gives, in which no process waits for another. Where memory is not enough for one, all raise
        AnyOutOfMemory, so that they go down the ladder together."""
        if self.size == 1:
            return run()
        done: list[T] = []
        reason = "another process of this job has not enough memory"
        try:
            done.append(run())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)  # and not the error, whose frames hold the tensors
        if self.sum([1.0 - len(done)])[0]:
            raise AnyOutOfMemory(reason)
        return done[0]

    def wait(self) -> None:
        """Until every process is here."""
        self.sum([0.0])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise over the processes."""
        if self.size == 1:
            return [*values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, values: list[T]) -> list[T]:
        """All processes' values, in the order of their ranks."""
        if self.size == 1:
            return values
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    def from_first(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def overall(self, own: Mean, weight: int) -> Mean:
        """The mean over all processes' shares. `weight`: what `own.loss` is a mean of, tokens or pairs."""
        if self.size == 1:
            return own
        tokens, rewards = own.supervised_tokens, own.rewards or Rewards(0.0, 0.0)
        parts = [own.loss * weight, rewards.accuracy * weight, rewards.margin * weight, weight]
        loss, won, margin, count, right, supervised = self.sum([*parts, own.accuracy * tokens, tokens])
        return Mean(
            loss / max(count, 1),
            right / max(supervised, 1),
            int(supervised),
            Rewards(won / max(count, 1), margin / max(count, 1)) if own.rewards else None,
        )


ALONE = World()
