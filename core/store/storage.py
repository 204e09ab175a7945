"""Which store: `settings.storage_url` names a folder or an S3 bucket; the rest of the code sees one interface.

Opening asks whether the store answers, so that a wrong address is said at start and not at the first upload.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.store import LocalStore, S3Store

from core.durable import make_folder
from core.errors import Unavailable
from core.settings import Settings
from core.store.errors import StorageConflict, StorageCorrupt, StorageMissing, unusable
from core.store.objects import STAGING, Entry, Storage
from core.store.presign import presigned
from core.store.streams import Stored

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = [
    "Entry",
    "Storage",
    "StorageConflict",
    "StorageCorrupt",
    "StorageMissing",
    "Stored",
    "open_storage",
]

STAGING_LIFE_S = 24 * 3600.0
log = structlog.get_logger()
_CLIENT: ClientConfig = {
    "allow_http": True,
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=120),
    # The whole of one request. The default of 30 s would end every long download
    "timeout": timedelta(hours=12),
}
_RETRIES: RetryConfig = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}


def open_storage(settings: Settings) -> Storage:
    """The store that `settings.storage_url` names, after asking whether it answers. One that is away is opened all
    the same: whoever uses it hears of it then, and it may be back.

    Raises AttuneError for a URL, bucket or folder that cannot be used.
    """
    parts = urlsplit(settings.resolved_storage_url)
    if parts.scheme == "s3":
        storage = _open_s3(settings, parts.netloc, parts.path.strip("/"))
    elif parts.scheme == "file":
        storage = _open_folder(Path(unquote(parts.path)))
    else:
        raise unusable(
            f"ATTUNE_STORAGE_URL has the scheme {parts.scheme!r}; give s3://bucket/prefix or file:///folder."
        )
    try:
        storage.check()
    except Unavailable as error:
        log.warning("storage_is_away", error=error.message)
    return storage


def _open_folder(root: Path) -> Storage:
    try:
        make_folder(root / STAGING)
        for leftover in (root / STAGING).iterdir():  # of writers that died
            if time.time() - leftover.stat().st_mtime > STAGING_LIFE_S:
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(f"The storage folder {root} cannot be used: {error.strerror}.") from error
    return Storage(root.as_uri(), LocalStore(root, automatic_cleanup=True), folder=root)


def _open_s3(settings: Settings, bucket: str, prefix: str) -> Storage:
    if not bucket:
        raise unusable("ATTUNE_STORAGE_URL names no bucket; give s3://bucket or s3://bucket/prefix.")
    store = s3_store(settings, bucket, prefix, settings.s3_endpoint)
    public = settings.storage_public_url.rstrip("/")
    sign = _signer(settings, bucket, prefix, public) if public else None
    return Storage(f"s3://{bucket}/{prefix}", store, sign=sign)


def s3_store(settings: Settings, bucket: str, prefix: str, endpoint: str) -> S3Store:
    """Without an endpoint, AWS; without a key, what obstore finds (the machine's role)."""
    config: S3Config = {}
    if endpoint:
        config["endpoint"] = endpoint
    if settings.s3_access_key_id:
        config["access_key_id"] = settings.s3_access_key_id
        config["secret_access_key"] = settings.s3_secret_access_key
    return S3Store(
        bucket,
        prefix=prefix or None,
        region=settings.s3_region,
        client_options=_CLIENT,
        retry_config=_RETRIES,
        config=config,
    )


def _signer(settings: Settings, bucket: str, prefix: str, public: str) -> Callable[[str, int, str | None], str]:
    def sign(key: str, seconds: int, filename: str | None) -> str:
        if not settings.s3_access_key_id:  # a role's changing keys are known to obstore alone; no file name then
            store = s3_store(settings, bucket, prefix, public)
            return obstore.sign(store, "GET", key, timedelta(seconds=seconds))
        return presigned(
            "GET",
            "/".join(part for part in (public, bucket, prefix, key) if part),
            region=settings.s3_region,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=settings.s3_secret_access_key,
            seconds=seconds,
            filename=filename,
        )

    return sign
