"""`python -m core.first_key`: on a new database, make the project "default" and the first operator's key.

The key goes to the operator key file (mode 0600), and only the file's path is printed. With `--again` another
operator's key is made: for a place whose key was lost.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core import ids
from core.access import projects
from core.db import Database, open_database
from core.durable import make_folder, replace_file
from core.settings import load_settings


def ensure_first_key(database: Database, path: Path, *, again: bool = False) -> bool:
    """Make the first operator's key unless there is one; True when a key was made and left in `path`."""
    with database.begin() as session:
        project = projects.first(session)
        if projects.has_operator_key(session) and not again:
            return False
        _, key = projects.create_key(session, project, "first operator" if not again else "operator", is_operator=True)
        # before the commit: a key in the database that nobody can read would lock everyone out
        _write(path, key)
    return True


def _write(path: Path, key: str) -> None:
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.{ids.random_text(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(key + "\n")
        replace_file(part, path)
    finally:
        part.unlink(missing_ok=True)


def main() -> int:
    settings = load_settings()
    path = settings.resolved_operator_key_file.resolve()
    database = open_database(settings.resolved_database_url)
    made = ensure_first_key(database, path, again=sys.argv[1:] == ["--again"])
    database.close()
    if made or path.exists():
        print(path)
    else:
        print(f"an operator's key exists, but not in {path}; `--again` makes another", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
