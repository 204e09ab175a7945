"""Hear that this process is to end when it is told so. uvicorn waits for open streams first, and says it afterwards."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def when_told_to_stop(act: Callable[[], None]) -> Generator[None]:
    """`act` runs in this event loop at the first signal; whoever heard the signals before still does. Where there are
    no signals to hear (an app in a thread of a test), nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def tell(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        heard = before[signal.Signals(number)]
        if callable(heard):
            heard(number, frame)

    for number in _SIGNALS:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, heard in before.items():
            signal.signal(number, heard)
