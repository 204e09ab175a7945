"""Makes the bucket that ATTUNE_STORAGE_URL names, if the store has not got it; a store of one's own needs no more.

A plain signed PUT: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import httpx

from core.settings import load_settings
from core.store.presign import presigned

HAVE_IT = 409  # BucketAlreadyOwnedByYou


def main() -> int:
    settings = load_settings()
    bucket = urlsplit(settings.resolved_storage_url).netloc
    url = presigned(
        "PUT",
        f"{settings.s3_endpoint.rstrip('/')}/{bucket}",
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
        seconds=60,
    )
    answer = httpx.put(url, timeout=30.0)
    if answer.is_error and answer.status_code != HAVE_IT:
        print(f"the store made no bucket {bucket}: {answer.status_code} {answer.text[:500]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
