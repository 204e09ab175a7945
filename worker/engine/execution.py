"""The choices of this machine for a run: precision, tokens of a packed micro-step, CPU threads.

Functions of the machine and the base alone, so that the same machine chooses the same again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from core.bases.model_shape import ModelShape, shape_of
from core.planning import memory_plan
from core.planning.memory_plan import CPU_MICRO_TOKENS, CPU_SHARE, CUDA_MICRO_TOKENS, CUDA_SHARE, Workload
from core.protocol import TrainTask
from core.spec import Execution, Training
from worker.engine.model import Precision, parameter_count, resolve_device


def device_memory_bytes(device: torch.device) -> int:
    """GPU memory, or the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")  # absent outside Linux
    return path.read_text().splitlines() if path.exists() else []


def _cpu_has_bfloat16() -> bool:
    """AVX512_BF16 or AMX: without them bfloat16 products are emulated and slow."""
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the device multiplies in it; also for small bases, where it saves a fifth of the time."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def choose(task: TrainTask, workload: Workload, threads: int) -> Execution:
    """The execution of a run that has none yet: what the plan's memory allows on this device."""
    target, resolved = resolve_device(task.device), task.resolved
    on_gpu = target.type == "cuda"
    least, most = CUDA_MICRO_TOKENS if on_gpu else CPU_MICRO_TOKENS
    # What every weight is trained in has to hold its smallest change
    precision = "float32" if resolved.training is Training.FULL else choose_precision(target)
    room = (task.memory_bytes or device_memory_bytes(target)) * (CUDA_SHARE if on_gpu else CPU_SHARE)
    return memory_plan.choose(
        resolved,
        _shape(task),
        workload,
        Execution(precision=precision, micro_tokens=least, threads=threads),
        most_tokens=most,
        room_bytes=room,
        on_gpu=on_gpu,
    )


def planned_memory(task: TrainTask, workload: Workload, chosen: Execution) -> dict[str, int]:
    """What the plan says that a run so executed takes of this device, in bytes by part."""
    on_gpu = resolve_device(task.device).type == "cuda"
    return memory_plan.memory(task.resolved, _shape(task), chosen, workload, on_gpu=on_gpu)


def _shape(task: TrainTask) -> ModelShape:
    folder = Path(task.base_folder)
    return shape_of(json.loads((folder / "config.json").read_bytes()), parameter_count(folder))
