"""Standard Webhooks: secrets, and the headers that prove who sent a body.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md; the official client's
`webhooks.unwrap` verifies them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32  # the standard asks for 24 to 64
SHOWN = 4  # last characters of a secret that may be shown again


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint(secret: str) -> str:
    return f"{PREFIX}…{secret[-SHOWN:]}"


def headers(keys: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """One signature for each secret in force. `timestamp`: seconds since the epoch; receivers allow 300 s."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_sign(key, message_id, timestamp, body) for key in keys),
    }


def _sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
