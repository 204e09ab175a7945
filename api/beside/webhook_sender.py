"""Signed requests to a receiver: to an address that was judged, without redirects, each within 15 seconds in all.

Of the answer the status counts; its body is read to 64 kB, so that the receiver is not cut off, and forgotten:
shown to the tenant, it would make this a window into what the web side can reach.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import httpcore
import httpx

from core.errors import AttuneError
from core.webhooks import receivers, signatures
from core.webhooks.queue import Outcome
from core.webhooks.receivers import Allowed, Target

TIMEOUT_S = 15.0
SAMPLES = 4  # test sends at once
ANSWER_BYTES = 64 * 1024
_SHOWN_ERROR = 200  # characters


class Sender:
    """Shared by threads. `allow`: the operator's list of inside receivers."""

    def __init__(self, allow: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.allowed = Allowed(allow)
        self.timeout_s = timeout_s
        self._making = threading.Lock()
        self._samples = threading.BoundedSemaphore(SAMPLES)

    def line(self, url: str) -> Line:
        """To send some to one receiver, over one connection."""
        return Line(url, self)

    def send(self, url: str, keys: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """Sign `body` with every key and post it. Never raises: what went wrong is the outcome's error."""
        with self.line(url) as line:
            return line.send(keys, message_id, body)

    def send_sample(self, url: str, keys: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """`send`, for a request that waits for it. Raises the 429 when many do: they hold the web side's threads."""
        if not self._samples.acquire(blocking=False):
            message = "Too many tests of webhooks are being sent; try again in a few seconds."
            raise AttuneError(message, code="rate_limit_exceeded", status=429, retry_after_s=5.0)
        try:
            return self.send(url, keys, message_id, body)
        finally:
            self._samples.release()

    @cached_property
    def tls(self) -> ssl.SSLContext:
        with self._making:  # reading the authorities takes 20 ms; SSL_CERT_FILE adds those of a house of its own
            return httpx.create_ssl_context()


class Line:
    """A receiver, judged once and then written to for as long as the block lasts. Used by one thread."""

    def __init__(self, url: str, sender: Sender) -> None:
        self._url = url
        self._sender = sender
        self._target: Target | None = None
        self._clock = _Clock()
        self._pool: httpcore.ConnectionPool | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def send(self, keys: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """Sign `body` with every key and post it. Never raises: what went wrong is the outcome's error."""
        at = time.time()
        started = time.monotonic()
        self._clock.deadline = started + self._sender.timeout_s
        status_code, error = None, None
        try:
            headers = {
                **signatures.headers(keys, message_id, int(at), body),
                "content-type": "application/json",
                "user-agent": "Attune-Webhooks/1",
            }
            status_code = self._post(headers, body)
        except AttuneError as refused:
            error = refused.message
        except (httpcore.TimeoutException, TimeoutError):
            error = f"No answer within {self._sender.timeout_s:g} s."
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as broken:
            error = f"The connection failed: {type(broken).__name__} {broken}"[:_SHOWN_ERROR]
        else:
            if 300 <= status_code < 400:
                error = f"It answered {status_code}; redirects are not followed."
        return Outcome(at, time.monotonic() - started, status_code, error)

    def _post(self, headers: dict[str, str], body: bytes) -> int:
        if self._pool is None:
            return self._over(self._call(), headers, body)
        try:
            return self._over(self._pool, headers, body)
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            # It hung up after the one before, as it may; that says nothing of this one
            self._hang_up()
            return self._over(self._call(), headers, body)

    def _call(self) -> httpcore.ConnectionPool:
        self._target = receivers.parse(self._url, self._sender.allowed)
        addresses = receivers.resolve(self._target, self._sender.allowed)
        secure = self._sender.tls if self._target.scheme == "https" else None
        backend = _Pinned(addresses, self._clock)
        self._pool = httpcore.ConnectionPool(ssl_context=secure, network_backend=backend)
        return self._pool

    def _over(self, pool: httpcore.ConnectionPool, headers: dict[str, str], body: bytes) -> int:
        target = self._target
        assert target is not None
        host = f"[{target.host}]" if ":" in target.host else target.host
        is_usual = target.port == receivers.PORTS[target.scheme]
        named = {**headers, "host": host if is_usual else f"{host}:{target.port}"}
        url = httpcore.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        with pool.stream(b"POST", url, headers=list(named.items()), content=body) as answer:
            _read(answer)
            return answer.status

    def _hang_up(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def _read(answer: httpcore.Response) -> None:
    taken = 0
    try:
        for piece in answer.iter_stream():
            taken += len(piece)
            if taken > ANSWER_BYTES:
                return
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        return  # the status has arrived, and it is what counts


class _Clock:
    """When the request that is being made has to be over; each has its own, on a connection that several share."""

    deadline = 0.0

    @property
    def left_s(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for this request is over")
        return left


class _Pinned(httpcore.NetworkBackend):
    """Connects to the given addresses whatever the host is called, and lets nothing outlast the deadline."""

    def __init__(self, addresses: list[str], clock: _Clock) -> None:
        self._addresses = addresses
        self._clock = clock
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failed: Exception | None = None
        for number, address in enumerate(self._addresses):
            # an address that does not answer leaves time for the others
            share_s = self._clock.left_s / (len(self._addresses) - number)
            try:
                return _Timed(self._sockets.connect_tcp(address, port, share_s), self._clock)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed


class _Timed(httpcore.NetworkStream):
    """A stream whose every wait ends at one deadline: a receiver that sends a byte a second gains nothing by it."""

    def __init__(self, stream: httpcore.NetworkStream, clock: _Clock) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._clock.left_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._clock.left_s)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._clock.left_s), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
