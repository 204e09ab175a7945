"""`python -m tests.faults.s3_server PORT ORDERS`: moto's S3 server, which spoils the share of answers that the file
ORDERS asks for, and adds a byte to ORDERS' `.hits` for each.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Spoilt:
    """The server behind its faults."""

    def __init__(self, server: WSGIApplication, orders: Path) -> None:
        self._server = server
        self._orders = orders

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        orders = json.loads(self._orders.read_text())
        method, is_object = environ["REQUEST_METHOD"], environ["PATH_INFO"].count("/") > 1
        wanted = {
            "slow_down": is_object,
            "full": is_object and method in ("PUT", "POST"),
            "truncated": is_object and method == "GET",
            "corrupted": is_object and method == "GET",
        }
        if not wanted.get(orders["fault"]) or random.random() >= orders["share"]:
            return self._server(environ, start_response)
        if orders["fault"] in ("slow_down", "full"):
            self._hit()
            # Its body is taken first: else the client is cut off before it reads the answer
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            code, status = ("SlowDown", 503) if orders["fault"] == "slow_down" else ("InsufficientStorage", 507)
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>ordered</Message></Error>"
            return Response(text, status, mimetype="application/xml")(environ, start_response)
        answer = Response.from_app(self._server, environ)
        body = answer.get_data()
        if answer.status_code < 300 and body:
            self._hit()
            if orders["fault"] == "corrupted":
                middle = len(body) // 2
                answer.set_data(body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])
            else:
                answer.response = [body[: len(body) // 2]]
                answer.headers["Content-Length"] = str(len(body))
                answer.headers["Connection"] = "close"
        return answer(environ, start_response)

    def _hit(self) -> None:
        with self._orders.with_suffix(".hits").open("ab") as hits:
            hits.write(b".")


def main() -> None:
    port, orders = int(sys.argv[1]), Path(sys.argv[2])
    server = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, Spoilt(server, orders), threaded=True)


if __name__ == "__main__":
    main()
