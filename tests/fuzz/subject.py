"""What bad input is sent to: a web process of its own whose memory is watched, two tenants, and a wire for bytes.

Every answer goes by `Subject.refused`, `.accepted` or `.reported`, which note what is not as it must be.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from fastapi import FastAPI

from core import first_key, migrate
from core.db import open_database
from core.models import BaseModelRow
from core.serving import servers
from core.settings import Settings
from core.store.storage import open_storage
from tests.api.place import BASE, SHAPE, Place, Tenant, examples, running
from tests.api.receiver import Receiver, receiver
from tests.services import free_port, port_answers, program

FILE_LIMIT = 80 * 1024 * 1024
RECEIVES_AT = "127.0.0.2"  # the one inside address that webhooks may reach
FORM = "multipart/form-data; boundary=x"
END = b"\r\n--x--\r\n"
ENVELOPE = {"message", "type", "param", "code"}


@dataclass(frozen=True)
class Answer:
    """`sent`: the bytes of the request that the web side took, or its system's buffers did."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Subject:
    place: Place
    mine: Tenant
    other: Tenant
    process: psutil.Process
    receiver: Receiver  # at 127.0.0.2
    inside: Receiver  # at the same port of 127.0.0.1, which nothing may reach
    generated: list[object]  # what came to the server that generates
    faults: list[str] = field(default_factory=list)
    five_xx: int = 0
    answers: int = 0

    @cached_property
    def training_file(self) -> str:
        return self.mine.upload()

    @cached_property
    def foreign(self) -> dict[str, str]:
        """Ids of the other tenant's: a file, a job, a model."""
        job_id = self.other.job(attune={"label": "here"})
        self.place.prepare(job_id)
        return {"file": self.other.upload(), "job": job_id,
                "model": self.place.publish(self.place.start(job_id), 9, final=True)}  # fmt: skip

    # What is sent

    def call(self, method: str, path: str, key: str | None = None, **options: Any) -> Answer:
        with self.place.client(key or self.mine.key) as http:
            answer = http.request(method, path, **options)
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    def post(self, path: str, body: object) -> Answer:
        """As JSON that the standard library writes: NaN and Infinity stand as they are."""
        return self.call("POST", path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    def job(self, **fields: Any) -> Answer:
        return self.post("/v1/fine_tuning/jobs", {"model": BASE, "training_file": self.training_file, **fields})

    def chat(self, **fields: Any) -> Answer:
        asked = {"model": BASE, "messages": [{"role": "user", "content": "x"}], **fields}
        return self.post("/v1/chat/completions", asked)

    def upload(self, content: bytes, name: bytes = b"train.jsonl", purpose: str = "fine-tune") -> Answer:
        return self.form(part("purpose", purpose.encode()) + part("file", content, name) + END)

    def form(self, body: bytes, **headers: str) -> Answer:
        return self.call("POST", "/v1/files", content=body, headers={"Content-Type": FORM, **headers})

    def wire(
        self, pieces: Iterable[bytes], *, headers: str = "", pause_s: float = 0.0, has_key: bool = True,
        line: str = "POST /v1/files", leaves: bool = False,
    ) -> Answer:  # fmt: skip
        """A request byte for byte. Sending ends as soon as an answer comes, or the connection does.

        `leaves`: without waiting for an answer."""
        parts = urlsplit(self.place.url)
        sent, answer = 0, b""
        authorization = f"Authorization: Bearer {self.mine.key}\r\n" if has_key else ""
        head = f"{line} HTTP/1.1\r\nHost: x\r\n{authorization}{headers}\r\n".encode()
        with socket.create_connection((parts.hostname, parts.port), timeout=15) as connection:
            with suppress(OSError):  # it may close while we send
                connection.sendall(head)
                for piece in pieces:
                    if select.select([connection], [], [], pause_s)[0]:
                        break
                    connection.sendall(piece)
                    sent += len(piece)
            with suppress(ConnectionResetError):
                while not leaves and not _is_whole(answer) and (chunk := connection.recv(65536)):
                    answer += chunk
        top, _, body = answer.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1]) if top else 0
        found = dict(line.lower().split(": ", 1) for line in lines[1:])
        return Answer(status, found, body, sent)

    # What has to come back

    def refused(self, answer: Answer, *names: str, status: int | tuple[int, ...] = 400) -> None:
        """4xx in OpenAI's envelope. `names`: what its message or param has to name: the field, the line, the limit."""
        self._count(answer)
        allowed = (status,) if isinstance(status, int) else status
        if answer.status not in allowed:
            self._fault(f"answered {answer.status}, not {status}: {answer.body[:200]!r}")
            return
        try:
            error = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            self._fault(f"no envelope: {answer.body[:200]!r}")
            return
        if set(error) != ENVELOPE or not error["message"] or not error["code"]:
            self._fault(f"not the envelope: {error}")
        said = f"{error['message']} {error['param']}"
        if missing := [name for name in names if name not in said]:
            self._fault(f"does not name {missing}: {said[:300]}")
        if len(answer.body) > 4096:
            self._fault(f"the error has {len(answer.body)} bytes")

    def unreadable(self, answer: Answer) -> None:
        """What is no HTTP is refused before there is a request, in the same envelope."""
        self.refused(answer, status=(400, 431))

    def accepted(self, answer: Answer) -> Any:
        """200, and its object."""
        self._count(answer)
        if answer.status != 200:
            self._fault(f"answered {answer.status}, not 200: {answer.body[:200]!r}")
            return {}
        return answer.json()

    def reported(self, answer: Answer, code: str, line: int = 1, field: str | None = None) -> Any:
        """The file is kept with a finding that names line, code and field; and no job takes it."""
        shown = self.accepted(answer)
        findings = (shown.get("attune") or {}).get("findings") or [{}]
        first = findings[0]
        if (shown.get("status"), first.get("code"), first.get("line")) != ("error", code, line):
            self._fault(f"found {shown.get('status')}, {first}; not {code} in line {line}")
        elif field is not None and first["field"] != field:
            self._fault(f"names {first['field']}, not {field}")
        else:
            self.refused(self.job(training_file=shown["id"]), "training_file", f"line {line}")
        return shown

    def holds(self, is_so: bool, what: str) -> None:
        if not is_so:
            self._fault(what)

    def _count(self, answer: Answer) -> None:
        self.answers += 1
        self.five_xx += answer.status >= 500

    def _fault(self, what: str) -> None:
        self.faults.append(what)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])


def part(name: str, content: bytes, filename: bytes | None = None) -> bytes:
    head = b'\r\n--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"'
    if filename is not None:
        head += b'; filename="' + filename + b'"'
    return head + b"\r\n\r\n" + content


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


class Peak:
    """The largest resident size of a process while the block runs, above what it was before."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = self._highest = process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth_bytes(self) -> int:
        return self._highest - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._highest = max(self._highest, self._process.memory_info().rss)


def _generator(seen: list[object]) -> FastAPI:
    """A server that would generate whatever it is asked."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, object]) -> dict[str, object]:
        seen.append(body)
        return {"object": "chat.completion"}

    return app


@contextmanager
def subject(folder: Path) -> Iterator[Subject]:
    """`folder` is empty; the web process ends with the block."""
    settings = Settings(
        data_dir=folder, max_file_bytes=FILE_LIMIT, webhook_allow=RECEIVES_AT, log_level="error", port=free_port()
    )
    database, storage = open_database(settings.resolved_database_url), open_storage(settings)
    migrate.upgrade(database)
    first_key.ensure_first_key(database, settings.resolved_operator_key_file)
    environment = {
        **os.environ,
        "ATTUNE_DATA_DIR": str(folder),
        "ATTUNE_MAX_FILE_BYTES": str(FILE_LIMIT),
        "ATTUNE_WEBHOOK_ALLOW": RECEIVES_AT,
        "ATTUNE_LOG_LEVEL": "error",
        "ATTUNE_PORT": str(settings.port),
    }
    seen: list[object] = []
    with (
        running(_generator(seen)) as generator,
        receiver(host=RECEIVES_AT) as reached,
        receiver(port=urlsplit(reached.url).port or 0) as inside,
        program(
            [sys.executable, "-m", "tests.fuzz.web_side"],
            log=folder / "web.log",
            ready=lambda: port_answers(settings.port),
            env=environment,
        ) as process,
    ):
        with database.begin() as session:
            ready = {"revision": "r1", "status": "ready", "shape": SHAPE, "parameters": 10**6}
            session.add(BaseModelRow(id=BASE, source="folder", location="tiny", **ready))
            servers.register(session, "generator", base_model=None, address=generator, device=servers.EXTERNAL)
        key = settings.resolved_operator_key_file.read_text().strip()
        place = Place(settings, f"http://127.0.0.1:{settings.port}", key, database, storage)
        made = Subject(
            place, place.tenant("mine"), place.tenant("other"), psutil.Process(process.pid), reached, inside, seen
        )
        _warm_up(made)
        yield made
    database.close()


def _warm_up(made: Subject) -> None:
    """What a process takes with its first requests is no leak."""
    assert made.training_file
    assert made.foreign
    for _ in range(10):
        made.upload(examples(12))
        made.job()
        with suppress(httpx.HTTPError):
            made.chat()
    time.sleep(0.05)
    made.generated.clear()
