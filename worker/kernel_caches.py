"""What the CPU's kernels keep between products, bounded.

oneDNN, and PyTorch's layer above it (ideep), keep a kernel and its buffers for every shape that they have multiplied in
bfloat16, a thousand by default. Packs and prompts are of nearly as many lengths as there are, so that memory grew with
every step, by megabytes, and no plan could know it. What a step meets again within itself still fits.
"""

from __future__ import annotations

import os

# https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html; ideep/lru_cache.hpp
_CAPACITIES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "8"}


def bound() -> None:
    """For this process, before its first product; an operator's own choice stays."""
    for name, entries in _CAPACITIES.items():
        os.environ.setdefault(name, entries)
