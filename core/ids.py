"""Ids as OpenAI's clients know them: a prefix and 24 random characters. Keys carry a checksum."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import unicodedata
import zlib

FINE_TUNED = "ft:"  # every published model's id begins so
_ALPHABET = string.ascii_letters + string.digits


def random_text(length: int) -> str:
    # One call for all characters: each is a system call, at which every other thread may go first
    number = secrets.randbits(6 * length + 64)
    text = ""
    for _ in range(length):
        number, rest = divmod(number, len(_ALPHABET))
        text += _ALPHABET[rest]
    return text


def file_id() -> str:
    return "file-" + random_text(24)


def upload_id() -> str:
    return "upload_" + random_text(24)


def part_id() -> str:
    return "part_" + random_text(24)


def batch_id() -> str:
    return "batch_" + random_text(24)


def batch_request_id(batch: str, line: int) -> str:
    """Derived, so that a line has one id whichever attempt answers it."""
    return "batch_req_" + hashlib.sha256(f"{batch}/{line}".encode()).hexdigest()[:24]


def job_id() -> str:
    return "ftjob-" + random_text(24)


def event_id(job: str, seq: int) -> str:
    """Derived, so that a write repeated after a lost answer gives the same event the same id."""
    digest = hashlib.sha256(f"{job}/{seq}".encode()).hexdigest()
    return "ftevent-" + digest[:24]


def checkpoint_id() -> str:
    return "ftckpt_" + random_text(24)


def project_id() -> str:
    return "proj_" + random_text(24)


def permission_id() -> str:
    return "cp_" + random_text(24)


def audit_id() -> str:
    return "audit_" + random_text(24)


def key_id() -> str:
    return "key_" + random_text(16)


def sign_in_id() -> str:
    return "sign_" + random_text(24)


def slug(text: str, limit: int = 40) -> str:
    """Lower-case ASCII letters, digits, dots and hyphens; safe in an id, a URL and a file name."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9.]+", "-", ascii_text.lower()).strip("-.")[:limit].strip("-.")


def model_id(base: str, organization: str, suffix: str | None, unique: str) -> str:
    """`ft:{base}:{organization}:{suffix}:{unique}`, without a slash (clients disagree on encoding it)."""
    return f"{FINE_TUNED}{slug(base.rsplit('/', 1)[-1])}:{slug(organization)}:{slug(suffix or '')}:{unique}"


def new_key() -> tuple[str, str]:
    """(id, the key to show once). 256 bits of secret and a CRC-32, so junk is refused without a look-up."""
    identifier = random_text(16)
    body = f"sk-attune-{identifier}_{secrets.token_urlsafe(32).replace('_', '-')}"
    return "key_" + identifier, f"{body}_{zlib.crc32(body.encode()):08x}"


def key_parts(key: str) -> tuple[str, str] | None:
    """(key id, sha256 of the key) of a well-formed key, else None."""
    match = re.fullmatch(r"(sk-attune-([A-Za-z0-9]{16})_[A-Za-z0-9-]{43})_([0-9a-f]{8})", key)
    if match is None or f"{zlib.crc32(match[1].encode()):08x}" != match[3]:
        return None
    return "key_" + match[2], hashlib.sha256(key.encode()).hexdigest()


def webhook_endpoint_id() -> str:
    return "we_" + random_text(24)


def webhook_event_id() -> str:
    return "evt_" + random_text(24)


def webhook_delivery_id() -> str:
    return "whd_" + random_text(24)
