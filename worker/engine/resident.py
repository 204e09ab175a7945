"""What stays between jobs, so that the next starts at once: a base in memory, and what was made of files on disk."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from core.errors import AttuneError
from core.spec import Quantization
from worker import kernel_caches
from worker.engine.model import Precision, keep_dequantised, load_base, resolve_device
from worker.engine.peak_memory import resident_bytes
from worker.engine.quantised import QuantisedCopies
from worker.engine.token_cache import TokenCache
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

    def __init__(self, cache: Path | None = None) -> None:
        """`cache`: a folder for quantised bases and tokenised files; without one nothing is kept on disk."""
        kernel_caches.bound()
        self._copies = QuantisedCopies(cache / "bases" if cache else None)
        self.tokens = TokenCache(cache / "tokens" if cache else None)
        self.idle_bytes = resident_bytes("VmRSS")  # of this process, before any base
        self._key: BaseKey | None = None
        self._model: PreTrainedModel | None = None
        self._dequantised = False

    def base(
        self,
        folder: Path,
        revision: str,
        quantization: Quantization,
        precision: Precision,
        device: str,
        *,
        double_quantization: bool = True,
        dequantised: bool | None = None,
    ) -> PreTrainedModel:
        """The base, from memory or loaded and verified now. Raises AttuneError where it cannot be trained.

        `dequantised`: 4-bit weights are made plain once (True), or are to be in 4 bit (False); None: as they are.
        """
        target = str(resolve_device(device))
        key = BaseKey(folder.resolve(), revision, quantization, precision, target, double_quantization)
        if self._key == key and self._model is not None and not (self._dequantised and dequantised is False):
            if dequantised:
                self._keep_dequantised(self._model, precision)
            return self._model
        self.drop()
        begun = time.perf_counter()
        model = self._load(key)
        verify(model)
        print(
            f"loaded {folder.name} ({quantization}, {precision}) in {time.perf_counter() - begun:.1f} s",
            file=sys.stderr,
        )
        self._key, self._model = key, model
        if dequantised:
            self._keep_dequantised(model, precision)
        return model

    def _keep_dequantised(self, model: PreTrainedModel, precision: Precision) -> None:
        keep_dequantised(model, precision)
        self._dequantised = True

    def _load(self, key: BaseKey) -> PreTrainedModel:
        """From a quantised copy where there is one; from the base's own files, and kept, where there is none."""
        if key.quantization not in (Quantization.NF4, Quantization.FP4):
            return _load_base(key.folder, key)
        kind = key.device.partition(":")[0]
        choices = [key.quantization.value, "double" if key.double_quantization else "single", key.precision, kind]
        copy = self._copies.place(key.folder, choices)
        if copy is not None and copy.exists():
            try:
                return _load_base(copy, key)
            except (AttuneError, OSError, SafetensorError) as error:
                print(f"the quantised copy cannot be read and goes: {error}", file=sys.stderr)
                shutil.rmtree(copy, ignore_errors=True)
        model = _load_base(key.folder, key)
        if copy is not None:
            self._copies.keep(model, copy)
        return model

    def drop(self) -> None:
        """Free the base."""
        self._key = self._model = None
        self._dequantised = False
        self.release_scratch()

    def release_scratch(self) -> None:
        """Give a job's memory back: on one GPU the server wants it before the next job does."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load_base(folder: Path, key: BaseKey) -> PreTrainedModel:
    return load_base(folder, key.quantization, key.precision, key.device, double_quantization=key.double_quantization)
