"""The service's settings as a command finds them; what is wrong with one is a line and exit code 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.connection import fail

if TYPE_CHECKING:
    from core.settings import Settings


def settings_here(**flags: object) -> Settings:
    """The environment's, but for `flags` that are not None."""
    # here, since a client has no need of the service's settings
    from pydantic import ValidationError

    from core.errors import AttuneError
    from core.settings import load_settings

    try:
        return load_settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        fail(f"a setting is wrong (ATTUNE_… in the environment): {wrong}")
    except AttuneError as error:
        fail(error.message)
