"""The secret that the web side shows to a server: from the settings, or made once in the data folder."""

from __future__ import annotations

import secrets
from contextlib import suppress

from core.durable import NewFile, make_folder
from core.settings import Settings

FILE_NAME = "serve-token"


def serve_token(settings: Settings) -> str:
    """`settings.serve_token`, or what stands in data_dir/serve-token (mode 0600, made when it is missing)."""
    if settings.serve_token:
        return settings.serve_token
    path = settings.data_dir / FILE_NAME
    if not path.exists():
        make_folder(settings.data_dir)
        with NewFile(settings.data_dir) as new:
            new.write(secrets.token_urlsafe(32).encode())
            with suppress(FileExistsError):  # another process of this place was first: its token counts
                new.publish(path)
    return path.read_text().strip()
