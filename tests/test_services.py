"""The servers that all other tests rely on are real, empty and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import obstore
import psutil
import psycopg
import redis
from obstore.store import S3Store
from sqlalchemy import create_engine, text


def test_postgres_is_empty_and_asks_for_a_password(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert row == (0,)
        assert connection.info.password


def test_both_databases_answer(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_redis_is_empty(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.set("here", "1")
    client.close()


def test_redis_is_empty_again(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.close()


def test_the_s3_server_creates_only_once(s3_settings: dict[str, str]) -> None:
    store = S3Store(
        s3_settings["ATTUNE_STORAGE_URL"].split("/")[2],
        endpoint=s3_settings["ATTUNE_S3_ENDPOINT"],
        region=s3_settings["ATTUNE_S3_REGION"],
        access_key_id=s3_settings["ATTUNE_S3_ACCESS_KEY_ID"],
        secret_access_key=s3_settings["ATTUNE_S3_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )
    obstore.put(store, "key", b"first", mode="create")
    try:
        obstore.put(store, "key", b"second", mode="create")
    except obstore.exceptions.AlreadyExistsError:
        assert bytes(obstore.get(store, "key").bytes()) == b"first"
    else:
        raise AssertionError("a second create went through")


def test_storage_settings_name_a_store(storage_settings: dict[str, str]) -> None:
    assert storage_settings["ATTUNE_STORAGE_URL"].startswith(("s3://", "file:///"))


def test_servers_end_with_a_killed_parent() -> None:
    """A session that is killed with SIGKILL, which no handler sees, leaves no server behind."""
    script = (
        "import time\nfrom tests import services\n"
        "with services.postgres(), services.redis():\n    print('up', flush=True)\n    time.sleep(60)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: Postgres' own user has to reach it
        Path(folder).chmod(0o755)
        holder = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "TMPDIR": folder},
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        servers = psutil.Process(holder.pid).children(recursive=True)
        assert {"postgres", "redis-server"} <= {server.name() for server in servers}
        holder.kill()
        holder.wait()
        holder.stdout.close()
        _, alive = psutil.wait_procs(servers, timeout=10)
        assert not alive
