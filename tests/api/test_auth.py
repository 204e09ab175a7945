"""Keys: what is let in, what is not, and that a refusal costs nothing."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from core import migrate
from core.access import projects
from core.db import open_database
from core.first_key import ensure_first_key
from core.settings import Settings
from tests.api.place import Place, Tenant, examples


def connect(web: Place) -> socket.socket:
    parts = urlsplit(web.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def test_malformed_keys_are_refused_alike(web: Place, tenant: Tenant) -> None:
    good = tenant.key
    headers: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", good)],
        [("Authorization", f"Basic {good}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer sk-nonsense")],
        [("Authorization", f"Bearer {good[:-1]}{'0' if good[-1] != '0' else '1'}")],
        [("Authorization", f"Bearer {good} x")],
        [("Authorization", "Bearer " + "k" * 8000)],
        [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")],
    ]
    with web.client() as http:
        for wrong in headers:
            answer = http.get("/v1/models", headers=wrong)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (401, "invalid_api_key"), wrong
            assert set(error) == {"message", "type", "param", "code"}
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert good not in answer.text
        assert http.get("/v1/models", params={"api_key": good}).status_code == 401
        assert http.get("/v1/models", headers={"Authorization": f"bearer {good}"}).status_code == 200


def test_an_upload_without_a_key_is_not_read(web: Place) -> None:
    """A gigabyte is announced; the answer comes at once, and the connection ends."""
    with connect(web) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1073741824\r\n\r\n"
        )
        sent = 0
        started = time.monotonic()
        try:
            while sent < 64 * 1024 * 1024:
                sent += connection.send(bytes(65536))
        except OSError:
            pass
        assert sent < 16 * 1024 * 1024  # two MiB read, the rest lies in the kernels' buffers
        assert time.monotonic() - started < 8
    with connect(web) as connection:
        connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()


def test_a_revoked_key_is_refused_at_once(web: Place, tenant: Tenant) -> None:
    assert tenant.http.get("/v1/models").status_code == 200
    with web.operator as http:
        keys = http.get("/v1/attune/keys", params={"project_id": tenant.project_id}).json()["data"]
        assert [(key["prefix"], key["key"]) for key in keys] == [(tenant.key[: projects.SHOWN], None)]
        assert keys[0]["last_used_at"] is not None
        assert http.delete(f"/v1/attune/keys/{keys[0]['id']}").json()["deleted"]
        assert http.delete(f"/v1/attune/keys/{keys[0]['id']}").status_code == 404
    assert tenant.http.get("/v1/models").status_code == 401


def test_the_last_operators_key_stays(web: Place) -> None:
    with web.operator as http:
        operators = [key for key in http.get("/v1/attune/keys").json()["data"] if key["is_operator"]]
        assert len(operators) == 1
        refused = http.delete(f"/v1/attune/keys/{operators[0]['id']}")
        assert refused.json()["error"]["code"] == "last_operator_key"
        default = operators[0]["project_id"]
        assert http.delete(f"/v1/attune/projects/{default}").json()["error"]["code"] == "default_project"


def test_only_hashes_are_kept(web: Place, tenant: Tenant) -> None:
    with web.database.read() as session:
        rows = [row for row in projects.keys(session) if row.project_id == tenant.project_id]
    assert len(rows) == 1
    assert len(rows[0].secret_sha256) == 64
    assert tenant.key not in repr(vars(rows[0]))


def test_the_first_key_is_made_once(web: Place, tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert not ensure_first_key(web.database, path)
    assert not path.exists()
    key_file = web.settings.resolved_operator_key_file
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_the_program_prints_the_path_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    done = subprocess.run(
        [sys.executable, "-m", "core.first_key"],
        env={"ATTUNE_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    path = settings.resolved_operator_key_file
    assert done.stdout == f"{path.resolve()}\n"
    first = path.read_text().strip()
    assert ensure_first_key(database, path, again=True)
    assert path.read_text().strip() != first
    with database.read() as session:
        assert all(projects.authenticate(session, key)[0].is_operator for key in (first, path.read_text().strip()))
    assert [found.name for found in tmp_path.glob("operator-key*")] == ["operator-key"]
    database.close()


def test_an_upload_of_an_erased_project_leaves_no_object(web: Place) -> None:
    """The project goes while the bytes come in: authenticated before, refused after."""
    tenant = web.tenant()
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    tail = b"\r\n--x--\r\n"
    body = head + examples(12) + tail
    with connect(web) as connection:
        connection.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\nContent-Type: "
            f"multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body[:200]
        )
        time.sleep(0.3)
        web.operator.delete(f"/v1/attune/projects/{tenant.project_id}")
        connection.sendall(body[200:])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert tenant.left() == (0, 0)
