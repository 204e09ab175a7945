"""The Redis broker: kombu's transport, but a server that refuses a command is waited for.

One that is full takes no writes, nor does one that a failover has made a replica, and either error would end the whole
worker. A ring that is lost meanwhile costs delay and never a job.
"""

from __future__ import annotations

import time
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis
from redis.exceptions import ResponseError

PAUSE_S = 1.0  # before the next question to a server that has refused one
log = structlog.get_logger()


class QoS(redis.QoS):
    def restore_visible(self, *args: Any, **options: Any) -> None:
        try:
            super().restore_visible(*args, **options)
        except ResponseError as error:
            log.warning("broker_refuses", what="to take rings back", error=str(error))


class Channel(redis.Channel):
    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError as error:
            log.warning("broker_refuses", what="to hand out rings", error=str(error))
            time.sleep(PAUSE_S)
            raise Empty from None

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        # Rings are sent to their queue by its name, for which the server need not know the binding
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ResponseError as error:
            log.warning("broker_refuses", what="to note a queue", error=str(error))

    def _size(self, queue: str) -> Any:
        # Nobody asks how long a queue is; kombu does when it declares one, and a full server does not say
        try:
            return super()._size(queue)
        except ResponseError:
            return 0


class Transport(redis.Transport):
    Channel = Channel
