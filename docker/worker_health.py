"""Is this machine's worker beating? Exit 0 or 1; the answer is its row in the database, as the web side sees it."""

from __future__ import annotations

import sys

from core import workers
from core.db import open_database
from core.settings import load_settings


def main() -> int:
    settings = load_settings()
    database = open_database(settings.resolved_database_url)
    with database.read() as session:
        beating = any(worker.id == settings.worker_name for worker in workers.alive(session))
    database.close()
    return 0 if beating else 1


if __name__ == "__main__":
    sys.exit(main())
