"""Base models from a Hugging Face hub or a mirror of it: a pinned commit, verified bytes, nothing that runs.

Three of the hub's routes are spoken directly (https://huggingface.co/docs/hub/api): the official client would
bring implicit tokens and process-wide switches, and does not check the sha256 of what it downloads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from core.bases.files import (
    LIGHT_FILES,
    MAX_INDEX_BYTES,
    MIB,
    WEIGHTS,
    WEIGHTS_INDEX,
    Described,
    FileRecord,
    check_size,
    choose_files,
    read_config,
    refused,
)
from core.durable import make_folder, replace_file
from core.errors import AttuneError, Unavailable
from core.settings import Settings

TRIES = 5  # of a small request
PATIENCE = 10  # failures in a row without a new byte that end a download
MAX_ANSWER_BYTES = 16 * MIB  # of the hub's description of a repository
REPORT_EVERY_S = 0.5
GIB = 1024 * MIB
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_RETRIED = (408, 429, 500, 502, 503, 504)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class _Interrupted(Exception):
    """The connection or the server failed in a way that another try may not."""


@dataclass(frozen=True)
class HubFile:
    """One file of a commit. Large files carry their sha256, small ones git's hash of a blob."""

    path: str
    bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository at one commit."""

    id: str
    commit: str
    files: dict[str, HubFile]  # top level only
    licence: str | None
    parameters: int | None
    gated: bool


class Hub:
    """A client of the hub that the settings name; use it as a context manager. Proxies and certificates come
    from the usual variables (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE)."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint = settings.hub_endpoint.rstrip("/")
        self._has_token = bool(settings.hub_token)
        self._client = httpx.Client(
            # httpx drops the token when a redirect leads to another host
            headers={"Authorization": f"Bearer {settings.hub_token}"} if settings.hub_token else {},
            timeout=httpx.Timeout(30.0, connect=10.0),
            follow_redirects=True,
        )

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def describe(self, repository: str, revision: str | None = None) -> Described:
        """Resolve to a commit, fetch the small files, and list all files that training needs with their hashes.

        Raises AttuneError for what is refused or does not exist, Unavailable for a hub that does not answer.
        """
        found = self.resolve(repository, revision)
        index = None
        if WEIGHTS not in found.files and WEIGHTS_INDEX in found.files:
            index = self._read(found, WEIGHTS_INDEX, MAX_INDEX_BYTES)
        light_names, weight_names = choose_files(found.id, found.files, index)
        light = self.fetch_light(found, light_names)
        config = read_config(found.id, light)
        contents = {**light, **({WEIGHTS_INDEX: index} if index is not None else {})}
        files = tuple(self._record(found, name, contents.get(name)) for name in [*light_names, *weight_names])
        return Described(found.id, found.commit, files, config, light, found.licence, found.parameters, found.gated)

    def resolve(self, repository: str, revision: str | None = None) -> Repository:
        """The commit that `revision` (a branch, tag or commit; the default branch without one) is now."""
        if _REPOSITORY.fullmatch(repository) is None or ".." in repository:
            raise _no_such_model(repository, revision)
        if revision is not None and (_REVISION.fullmatch(revision) is None or ".." in revision):
            raise _no_such_model(repository, revision)
        url = f"{self._endpoint}/api/models/{repository}"
        if revision is not None:
            url += f"/revision/{quote(revision, safe='')}"
        answer = self._get(repository, revision, f"{url}?blobs=true", MAX_ANSWER_BYTES)
        try:
            return _repository(httpx.Response(200, content=answer).json(), repository)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self._endpoint} does not answer as a model hub does; check ATTUNE_HUB_ENDPOINT."
            raise Unavailable(message, code="base_model_unavailable") from error

    def fetch_light(self, repository: Repository, names: Sequence[str]) -> dict[str, bytes]:
        """Small files by name, each of a bounded size and with the hash that the hub gave."""
        return {name: self._read(repository, name, LIGHT_FILES[name]) for name in names}

    def _read(self, repository: Repository, name: str, limit: int) -> bytes:
        file = repository.files[name]
        url = self._file_url(repository.id, repository.commit, name)
        content = self._get(repository.id, repository.commit, url, limit)
        check_size(repository.id, name, content, limit)
        sha1 = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False) if file.git_sha1 else None
        if sha1 is not None and not file.sha256:  # of a large file, git hashes a pointer instead
            sha1.update(content)
            agrees = sha1.hexdigest() == file.git_sha1
        else:
            agrees = file.sha256 in (None, hashlib.sha256(content).hexdigest())
        if not agrees:
            raise _wrong_bytes(repository.id, name)
        return content

    def _record(self, repository: Repository, name: str, content: bytes | None) -> FileRecord:
        file = repository.files[name]
        if content is not None:
            return {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if file.sha256 is None:
            message = f"The hub gives no sha256 for {name} of {repository.id}, so its bytes could not be checked."
            raise refused(message, "base_model_unsafe")
        return {"path": name, "bytes": file.bytes, "sha256": file.sha256}

    def fetch_weights(
        self,
        repository: str,
        commit: str,
        files: Sequence[FileRecord],
        folder: Path,
        on_progress: Progress = lambda done, total: None,
    ) -> None:
        """Download `files` to `folder`, each verified before it gets its name. What a broken download left is
        continued; of several processes one downloads and the others find its files."""
        make_folder(folder)
        total = sum(file["bytes"] for file in files)
        with _alone(folder / ".lock"):
            missing = [file for file in files if not _is_there(folder, file)]
            done = total - sum(file["bytes"] for file in missing)
            on_progress(done, total)
            _refuse_without_room(repository, folder, total - done)
            for file in missing:
                start = done
                self._download(
                    repository, commit, file, folder, lambda part, start=start: on_progress(start + part, total)
                )
                done += file["bytes"]
            on_progress(total, total)

    def _download(
        self, repository: str, commit: str, file: FileRecord, folder: Path, on_bytes: Callable[[int], None]
    ) -> None:
        part = folder / f".{file['path']}.part"
        url = self._file_url(repository, commit, file["path"])
        for _ in range(2):  # a part with wrong bytes in it deserves a second, fresh try
            if self._continue(repository, commit, url, part, file["bytes"], on_bytes) == file["sha256"]:
                replace_file(part, folder / file["path"])
                return
            part.unlink()
        raise _wrong_bytes(repository, file["path"])

    def _continue(
        self, repository: str, commit: str, url: str, part: Path, size: int, on_bytes: Callable[[int], None]
    ) -> str:
        """Bring `part` to `size` bytes; the sha256 of what it then holds."""
        failures, reported = 0, 0.0
        with part.open("a+b") as file:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            have = file.tell()
            while have < size:
                before = have
                try:
                    with self._answer(repository, commit, url, {"Range": f"bytes={have}-"}) as response:
                        if have and response.headers.get("Content-Range", "").startswith(f"bytes {have}-") is False:
                            # the range was not honoured: the whole file comes
                            file.truncate(0)
                            digest, have, before = hashlib.sha256(), 0, 0
                        for block in response.iter_bytes(MIB):
                            if have + len(block) > size:
                                return "longer than promised"
                            file.write(block)
                            digest.update(block)
                            have += len(block)
                            if time.monotonic() - reported >= REPORT_EVERY_S:
                                reported = time.monotonic()
                                on_bytes(have)
                except (httpx.TransportError, httpx.DecodingError, _Interrupted) as error:
                    failures = 1 if have > before else failures + 1
                    if failures >= PATIENCE:
                        raise self._away(repository, error) from error
                    time.sleep(_pause_s(failures))
                else:
                    if have < size:
                        return "shorter than promised"
            return digest.hexdigest()

    def _get(self, repository: str, revision: str | None, url: str, limit: int) -> bytes:
        """The whole of a small answer, at most one byte more than `limit`."""
        for failures in range(1, TRIES + 1):
            try:
                with self._answer(repository, revision, url, {}) as response:
                    content = bytearray()
                    for block in response.iter_bytes(MIB):
                        content += block
                        if len(content) > limit:
                            break
                    return bytes(content[: limit + 1])
            except (httpx.TransportError, httpx.DecodingError, _Interrupted) as error:
                if failures == TRIES:
                    raise self._away(repository, error) from error
            time.sleep(_pause_s(failures))
        raise AssertionError("unreachable")

    @contextmanager
    def _answer(
        self, repository: str, revision: str | None, url: str, headers: dict[str, str]
    ) -> Generator[httpx.Response]:
        # identity: a compressed answer has no range and no length to trust
        with self._client.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response:
            if response.status_code in _RETRIED:
                raise _Interrupted(f"it answers {response.status_code}")
            if response.is_error:
                raise self._refusal(repository, revision, response)
            yield response

    def _refusal(self, repository: str, revision: str | None, response: httpx.Response) -> AttuneError:
        reason = response.headers.get("X-Error-Code", "")
        if reason == "GatedRepo" or (response.status_code == 403 and not reason):
            if not self._has_token:
                message = (
                    f"{repository} is gated: accept its licence at {self._endpoint}/{repository}, then give an access "
                    "token of that account in a file named by ATTUNE_HUB_TOKEN_FILE."
                )
            else:
                message = (
                    f"{repository} is gated, and the token in ATTUNE_HUB_TOKEN_FILE has no access to it: accept its "
                    f"licence at {self._endpoint}/{repository} with the account of that token."
                )
            return refused(message, "gated_model")
        if response.status_code in (401, 404):  # to strangers the hub says 401 for what does not exist
            return _no_such_model(repository, revision)
        message = f"{self._endpoint} refuses {repository} with status {response.status_code}."
        return Unavailable(message, code="base_model_unavailable")

    def _away(self, repository: str, error: Exception) -> Unavailable:
        message = (
            f"{repository} cannot be downloaded: {self._endpoint} cannot be reached ({error or type(error).__name__}). "
            "Check the network or a proxy (HTTPS_PROXY), name a mirror (ATTUNE_HUB_ENDPOINT), or put the model's "
            "folder below ATTUNE_MODELS_DIR and add it with `attune models add`."
        )
        return Unavailable(message, code="base_model_unavailable", retry_after_s=30.0)

    def _file_url(self, repository: str, commit: str, name: str) -> str:
        return f"{self._endpoint}/{repository}/resolve/{commit}/{quote(name)}"


def _repository(answer: dict[str, Any], asked: str) -> Repository:
    files: dict[str, HubFile] = {}
    for entry in answer["siblings"]:
        name, large = str(entry["rfilename"]), entry.get("lfs") or {}
        if "/" not in name:
            sha256 = large.get("sha256") or large.get("oid")
            files[name] = HubFile(name, int(entry.get("size") or 0), sha256, entry.get("blobId"))
    commit = str(answer["sha"])
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        raise ValueError("no commit")
    name = str(answer.get("id") or asked)  # a renamed repository answers with its new name
    if _REPOSITORY.fullmatch(name) is None or ".." in name:
        raise ValueError("no repository id")
    licence = (answer.get("cardData") or {}).get("license")
    return Repository(
        id=name,
        commit=commit,
        files=files,
        licence=licence if isinstance(licence, str) else None,
        parameters=(answer.get("safetensors") or {}).get("total"),
        gated=bool(answer.get("gated")),
    )


def _no_such_model(repository: str, revision: str | None) -> AttuneError:
    at = f" at revision {revision[:100]!r}" if revision else ""
    message = (
        f"The hub has no model {repository[:200]!r}{at}, or only for those who have a token (ATTUNE_HUB_TOKEN_FILE)."
    )
    return refused(message, "model_not_found")


def _wrong_bytes(repository: str, name: str) -> AttuneError:
    message = f"{name} of {repository} came with other bytes than its hash promises; nothing of it was kept."
    return Unavailable(message, code="base_model_corrupt", retry_after_s=60.0)


def _refuse_without_room(repository: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = (
            f"{repository} needs {needed / GIB:.1f} GiB below ATTUNE_MODELS_DIR, and {free / GIB:.1f} GiB are free."
        )
        raise Unavailable(message, code="base_model_unavailable", retry_after_s=60.0)


def _pause_s(failures: int) -> float:
    return min(0.25 * 4 ** (failures - 1), 15.0)


def _is_there(folder: Path, file: FileRecord) -> bool:
    """Files get their names only after they were verified, so name and size suffice here."""
    path = folder / file["path"]
    return path.is_file() and path.stat().st_size == file["bytes"]


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Wait until no other process or thread holds `lock`; the kernel frees it when its holder dies."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
