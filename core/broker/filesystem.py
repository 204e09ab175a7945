"""The file broker: kombu's filesystem transport, but a message cut short by a full disk is no message.

kombu names the file before it writes it, and the reader's error over an empty one would end the whole worker.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import filesystem


class Channel(filesystem.Channel):
    def _get(self, queue: str) -> Any:
        try:
            return super()._get(queue)
        except ValueError:  # the file is gone by now, and the janitor rings again
            raise Empty from None


class Transport(filesystem.Transport):
    Channel = Channel
