"""How a store fails, in our words: what obstore and the file system raise becomes one of these, or an AttuneError.

Details, which may name hosts, stay in the cause.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from core.errors import AttuneError, Unavailable


class StorageConflict(Exception):
    """The key already holds other bytes."""


class StorageMissing(Exception):
    """No object has this key."""


class StorageCorrupt(Exception):
    """The bytes that came back are not the bytes that were written."""


class Taken(Exception):
    """The key holds an object already; whether that is a conflict, its bytes say."""


def unusable(message: str) -> AttuneError:
    return AttuneError(message, code="storage_misconfigured", status=500, type="server_error")


@contextmanager
def answers(key: str) -> Generator[None]:
    """Around each question to the store."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageMissing(key) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        message = "The object storage refuses the credentials of ATTUNE_S3_ACCESS_KEY_ID, or their rights."
        raise Unavailable(message, code="storage_refused") from error
    except BaseError as error:
        raise Unavailable("The object storage does not answer.", code="storage_unavailable") from error
    except OSError as error:
        message = f"The storage folder cannot be read: {error.strerror}."
        raise Unavailable(message, code="storage_unavailable") from error


@contextmanager
def folder_takes(key: str) -> Generator[None]:
    """Around each write of the folder store."""
    try:
        yield
    except FileExistsError as error:
        raise Taken(key) from error
    except OSError as error:  # no room, no right, or the folder is gone
        message = f"The storage folder does not take objects: {error.strerror}."
        raise Unavailable(message, code="storage_unavailable") from error
