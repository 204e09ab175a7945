"""How a lack of memory shows: torch raises one error on a GPU, another on a CPU, and Python a third."""

from __future__ import annotations

import torch

# What torch's CPU allocator says, and C++'s in a library below; each comes as a plain RuntimeError
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory", "bad_alloc")


class AnyOutOfMemory(MemoryError):
    """Raised in every process of a job, since at least one of them had not enough memory."""


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _CPU_ALLOCATOR)
