"""How the command line reaches a service: the official `openai` client, an address and a key.

Whatever goes wrong on the way becomes one clear line and exit code 1.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
import openai
import typer
from openai import OpenAI
from rich.console import Console
from rich.markup import escape

DEFAULT_URL = "http://127.0.0.1:8000/v1"
KEY_FILE_NAME = "operator-key"  # in the data folder, left there by the first start
WIDE = 240  # characters of a line that no terminal shows: programs read it, and ids must not be broken
_here = Console(highlight=False)
screen = _here if _here.is_terminal else Console(highlight=False, width=WIDE)
errors = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Service:
    """Where the service is and how we authenticate."""

    url: str
    api_key: str | None
    key_file: Path | None
    data_dir: Path

    @property
    def base_url(self) -> str:
        """With the `/v1` that an address of the bare service lacks."""
        return self.url if urlsplit(self.url).path.strip("/") else self.url.rstrip("/") + "/v1"

    def key(self) -> str:
        """--key-file, else ATTUNE_API_KEY, else the data folder's operator key."""
        if self.key_file is None and self.api_key:
            return self.api_key
        path = self.key_file or self.data_dir / KEY_FILE_NAME
        try:
            key = path.read_text().strip()
        except OSError as error:
            fail(
                f"no key: cannot read {path} ({error.strerror}). The first `attune up` makes it; for a service "
                "elsewhere set ATTUNE_API_KEY, or name a file with --key-file."
            )
        return key or fail(f"no key: {path} is empty")


@contextmanager
def connected(context: typer.Context) -> Generator[OpenAI]:
    """A client of the service that the command line names; its errors end the command."""
    service: Service = context.obj
    advice = "Start the service with `attune up`, or say where it is with --url or ATTUNE_URL."
    with (
        errors_end_the_command(service.base_url, advice),
        OpenAI(base_url=service.base_url, api_key=service.key(), max_retries=1) as client,
    ):
        yield client


@contextmanager
def errors_end_the_command(base_url: str, advice: str) -> Generator[None]:
    """`advice`: what to do when nothing answers at `base_url`."""
    try:
        yield
    except openai.APIStatusError as error:
        fail(status_line(error))
    except openai.APITimeoutError:
        fail(f"{base_url} did not answer in time")
    except openai.APIConnectionError as error:
        fail(f"cannot reach {base_url}: {error.__cause__ or error.message}. {advice}")
    except httpx.TransportError as error:  # while an answer was read in pieces, where the client leaves it to us
        fail(f"{base_url} broke off: {error}. Run the command again.")


def status_line(error: openai.APIStatusError) -> str:
    """The service's own words, with the field at fault; any other server's answer is quoted."""
    if not isinstance(error.body, dict):
        return f"HTTP {error.status_code}: {error.response.text[:300].strip() or error.response.reason_phrase}"
    message = str(error.body.get("message") or error.message)
    return f"{message} (param: {error.param})" if error.param else message


def fail(message: str) -> NoReturn:
    errors.print(f"[bold red]error:[/bold red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(1)
