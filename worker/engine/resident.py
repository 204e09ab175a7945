"""The base model that stays in memory between jobs, so that the next job on it starts at once."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.spec import Quantization
from worker.engine.model import Precision, load_base, resolve_device
from worker.engine.verify import verify


@dataclass(frozen=True)
class BaseKey:
    """What makes two jobs share a resident base."""

    folder: Path
    revision: str
    quantization: Quantization
    precision: Precision
    device: str
    double_quantization: bool


class Resident:
    """Holds one base at most; a job gets it bare and must leave it bare."""

    def __init__(self) -> None:
        self._key: BaseKey | None = None
        self._model: PreTrainedModel | None = None

    def base(
        self,
        folder: Path,
        revision: str,
        quantization: Quantization,
        precision: Precision,
        device: str,
        *,
        double_quantization: bool = True,
    ) -> PreTrainedModel:
        """The base, from memory or loaded and verified now. Raises AttuneError where it cannot be trained."""
        target = str(resolve_device(device))
        key = BaseKey(folder.resolve(), revision, quantization, precision, target, double_quantization)
        if self._key == key and self._model is not None:
            return self._model
        self.drop()
        begun = time.perf_counter()
        model = load_base(key.folder, quantization, precision, device, double_quantization=double_quantization)
        verify(model)
        print(
            f"loaded {folder.name} ({quantization}, {precision}) in {time.perf_counter() - begun:.1f} s",
            file=sys.stderr,
        )
        self._key, self._model = key, model
        return model

    def drop(self) -> None:
        """Free the base."""
        self._key = self._model = None
        self.release_scratch()

    def release_scratch(self) -> None:
        """Give a job's memory back: on one GPU the server wants it before the next job does."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
