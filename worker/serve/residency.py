"""What is in memory: bases, and on each base its adapters. A request borrows a model; loading happens beside the
event loop, once for all who wait, and every change to a loaded model goes through the scheduler's thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from core.models import Model
from core.settings import Settings
from worker.device import DeviceHold
from worker.serve.resolve import BaseKey, Servable, Source
from worker.serve.scheduler import Scheduler
from worker.serve.shared import Shared
from worker.serve.turn import Turn

if TYPE_CHECKING:
    from worker.engine.generate import Generator

log = structlog.get_logger()
_SMALL_BASE_PARAMETERS = 50_000_000


@dataclass(eq=False)
class _Base:
    """A base in memory with the adapters on it by model id."""

    generator: Generator
    adapters: Shared[str, str]


@dataclass(frozen=True)
class Borrowed:
    """A model that stays in memory while it is borrowed. `adapter` is its name on the generator, None for a base."""

    servable: Servable
    generator: Generator
    adapter: str | None


class Residency:
    """Made inside the event loop. `device` is where weights go, `hold` the right to put them there."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        scheduler: Scheduler,
        device: str,
        hold: DeviceHold,
        *,
        least_turn_s: float,
    ) -> None:
        self._settings = settings
        self._source = source
        self._scheduler = scheduler
        self.device = device
        limit = 1 if device.startswith("cuda") else settings.serve_bases
        self._bases: Shared[BaseKey, _Base] = Shared("base models", limit, self._drop_base)
        self.turn = Turn(hold, free=self._bases.clear, abort=self._abort, least_s=least_turn_s)

    @asynccontextmanager
    async def borrow(self, model_id: str) -> AsyncGenerator[Borrowed]:
        """The model, loaded if need be. Raises NotFound, or Unavailable while there is no room or no device."""
        servable = await asyncio.to_thread(self._source.resolve, model_id)
        async with (
            self.turn.enter(),
            self._bases.use(servable.base, lambda: self._load_base(servable)) as base,
        ):
            adapter = servable.adapter
            if adapter is None:
                yield Borrowed(servable, base.generator, None)
                return
            async with base.adapters.use(adapter.id, lambda: self._load_adapter(base.generator, adapter)) as name:
                yield Borrowed(servable, base.generator, name)

    async def _load_base(self, servable: Servable) -> _Base:
        started = asyncio.get_running_loop().time()
        generator = await asyncio.to_thread(self._make_generator, servable)
        seconds = asyncio.get_running_loop().time() - started
        log.info("base_loaded", base=servable.base.base_model, seconds=round(seconds, 1))

        async def drop(name: str, _: str) -> None:
            await asyncio.wrap_future(self._scheduler.call(lambda: generator.remove(name)))

        return _Base(generator, Shared("adapters", self._settings.serve_adapters, drop))

    def _make_generator(self, servable: Servable) -> Generator:
        # torch takes seconds to import, and the server answers /health before that
        import torch

        from core.rendering.render import Renderer
        from worker.engine.execution import choose_precision
        from worker.engine.generate import Generator
        from worker.engine.model import load_base, parameter_count, resolve_device
        from worker.engine.model_folder import read_model

        folder = self._source.base_folder(servable)
        # A small base's products are too short to share: threads beside a busy engine would wait for each other
        small = parameter_count(folder) < _SMALL_BASE_PARAMETERS
        threads = self._settings.engine_threads or (1 if small else os.cpu_count() or 1)
        # On the scheduler's thread: what is set on another does not count there
        self._scheduler.call(lambda: torch.set_num_threads(threads)).result()
        precision = choose_precision(resolve_device(self.device))
        held = servable.base
        model = load_base(
            folder, held.quantization, precision, self.device, double_quantization=held.double_quantization
        )
        if servable.whole is not None:
            return Generator(model, read_model(folder).renderer)  # with the template that it was trained with
        return Generator(model, Renderer.from_folder(folder, datetime.now(UTC).date().isoformat()))

    async def _load_adapter(self, generator: Generator, adapter: Model) -> str:
        from worker.engine.generate import read_servable

        folder = await asyncio.to_thread(self._source.adapter_folder, adapter)
        servable = await asyncio.to_thread(read_servable, folder)
        await asyncio.wrap_future(self._scheduler.call(lambda: generator.add(adapter.id, servable)))
        log.info("adapter_loaded", model=adapter.id)
        return adapter.id

    async def _drop_base(self, key: BaseKey, base: _Base) -> None:
        await asyncio.wrap_future(self._scheduler.call(base.generator.free))
        log.info("base_dropped", base=key.base_model)

    def _abort(self, reason: BaseException) -> None:
        for base in self._bases.values():
            self._scheduler.abort(base.generator, reason)
