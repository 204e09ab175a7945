"""The table of servers, on both databases; and the token that they share with the web side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.db import Database
from core.models import Server
from core.serving import servers
from core.serving.serve_token import serve_token
from core.settings import load_settings


def test_a_server_is_found_while_it_beats(database: Database) -> None:
    with database.begin() as session:
        servers.register(session, "ours", base_model=None, address="http://a", device="cpu")
        servers.register(session, "vllm", base_model="llama", address="http://b", device=servers.EXTERNAL)

    def addresses(base_model: str) -> list[str]:
        with database.read() as session:
            return [server.address for server in servers.find(session, base_model)]

    assert addresses("llama") == ["http://b", "http://a"], "the one made for the base comes first"
    assert addresses("qwen") == ["http://a"]
    with database.begin() as session:
        for server in servers.alive(session):
            server.beat_at -= servers.ALIVE_S + 1
    assert addresses("llama") == ["http://b"], "what an operator added does not beat"
    with database.begin() as session:
        assert servers.beat(session, "ours", "http://a")
        assert not servers.beat(session, "ours", "http://elsewhere")
        assert not servers.beat(session, "nobody", "http://a")
    assert addresses("qwen") == ["http://a"]
    with database.begin() as session:
        servers.register(session, "ours", base_model=None, address="http://c", device="cpu")
    assert addresses("qwen") == ["http://c"], "a server that starts again takes its own place"
    with database.begin() as session:
        servers.leave(session, "ours")
        assert session.get(Server, "ours") is None


def test_the_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: serve_token(settings), range(8)))
    assert len(tokens) == 1
    assert len(tokens.pop()) > 40
    assert (tmp_path / "data" / "serve-token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["serve-token"]
    assert serve_token(load_settings(data_dir=tmp_path / "other", serve_token="given")) == "given"
    assert not (tmp_path / "other").exists()
