"""Which MLflow server a job may name. The worker makes the requests, with the operator's credentials, so a tenant
chooses among the servers that the operator has listed and no others.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from core.errors import AttuneError

MAX_URI = 2048
PARAM = "attune.integrations"
_PORTS = {"http": 80, "https": 443}
# So narrow that no two readers of a URL can see two hosts in it
_PLACE = re.compile(r"([a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")


def check(uri: str, allowed: str) -> None:
    """`allowed`: comma separated hosts, each with its port where that is not the scheme's own.

    Raises the 400 of a URI that is no http(s) URL, or that leads to another server.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise _refused(f"it cannot be read ({error})") from error
    if parts.scheme not in _PORTS:
        raise _refused("it has to begin with https:// or http:// (folders and databases are for an operator to choose)")
    if not uri.isascii() or not uri.isprintable() or re.search(r"[\s\\?#]", uri):
        raise _refused("it holds a query, a fragment, spaces, backslashes or characters beyond ASCII")
    place = _PLACE.fullmatch(parts.netloc.lower())
    if place is None:
        raise _refused("it has no plain host (a user name or password is the worker's to know, not the request's)")
    host, port = place[1], int(place[2] or _PORTS[parts.scheme])
    own = _PORTS[parts.scheme] == port
    listed = {entry.strip().lower() for entry in allowed.split(",")}
    if f"{host}:{port}" not in listed and not (own and host in listed):
        where = host if own else f"{host}:{port}"
        raise _refused(f"{where} is not among the servers that the operator allows (ATTUNE_MLFLOW_ALLOW)")


def _refused(why: str) -> AttuneError:
    message = f"This tracking_uri cannot be used: {why}. Leave it out for the operator's own server."
    return AttuneError(message, code="tracking_uri_refused", param=PARAM)
