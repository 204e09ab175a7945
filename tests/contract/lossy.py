"""A way to the service on which answers are lost: a proxy that passes requests on and hangs up on its client."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class LossyWay:
    """`lose`: how many answers to POSTs still to swallow. `retry_counts`: what the client said of each POST."""

    url: str = ""
    lose: int = 0
    retry_counts: list[str] = field(default_factory=list)


@contextmanager
def lossy_way(url: str) -> Iterator[LossyWay]:
    """`url`: the service's, with or without a path."""
    target = urlsplit(url)
    way = LossyWay()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            way.retry_counts.append(self.headers.get("x-stainless-retry-count", ""))
            onward = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
            onward.request("POST", self.path, body, dict(self.headers.items()))
            answer = onward.getresponse()
            content = answer.read()
            onward.close()
            if way.lose:
                way.lose -= 1
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name in ("content-type", "idempotent-replayed", "x-request-id"):
                if (value := answer.headers[name]) is not None:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    way.url = f"http://127.0.0.1:{server.server_port}{target.path}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield way
    finally:
        server.shutdown()
        server.server_close()
