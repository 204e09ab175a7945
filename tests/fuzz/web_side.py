"""`python -m tests.fuzz.web_side`: the web side as a process of its own, impatient with slow clients.

Names below `.test` are resolved here, so that a name may change its address between two questions.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from api.app import create_app
from api.gate.body import Pace
from api.http_head import BoundedHead
from core.settings import load_settings

ALLOWED, INSIDE, PUBLIC = "127.0.0.2", "127.0.0.1", "93.184.216.34"
_turns = itertools.cycle((ALLOWED, INSIDE))


def resolver(real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but `rebinding.test` is at an allowed place when asked first, and elsewhere when asked again."""

    def resolve(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host in ("rebinding.test", "public.test"):
            address = PUBLIC if host == "public.test" else next(_turns)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))]
        return real(host, port, *more, **options)

    return resolve


def main() -> None:
    socket.getaddrinfo = resolver(socket.getaddrinfo)
    settings = load_settings()
    app = create_app(settings, with_background=False, pace=Pace(idle_s=0.8, window_s=0.4, bytes_per_s=2000))
    port = int(os.environ["ATTUNE_PORT"])
    uvicorn.run(app, host=settings.host, port=port, http=BoundedHead, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
