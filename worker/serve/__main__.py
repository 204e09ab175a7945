"""`python -m worker.serve`: the generation server, bound to settings.serve_host and serve_port."""

from __future__ import annotations

import os
import sys

import uvicorn

from core.logs import configure_logs
from core.settings import load_settings
from worker import kernel_caches

GRACE_S = 5  # for answers under way when the server is told to end


def main() -> int:
    # Set before anything imports them: bitsandbytes and transformers ask no hub, core.bases.catalog alone does
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the engine may need the same cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    kernel_caches.bound()
    settings = load_settings()
    configure_logs(settings)
    from worker.serve.app import Server

    gave_up = False

    def give_up() -> None:
        nonlocal gave_up
        gave_up = True
        web.should_exit = True

    server = Server(settings, give_up=give_up)
    web = uvicorn.Server(
        uvicorn.Config(
            server.app,
            host=settings.serve_host,
            port=settings.serve_port,
            log_level=settings.log_level,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    web.run()
    return int(gave_up or not web.started)


if __name__ == "__main__":
    sys.exit(main())
