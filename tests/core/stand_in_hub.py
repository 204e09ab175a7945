"""A small server that speaks the hub's routes: descriptions with hashes, redirects to a second host for large files,
ranges, gates, and the faults of networks."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MODEL = "maker/tiny-1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def safetensors(**shapes: list[int]) -> bytes:
    """A file of float32 zeros."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * count]}
        end += 4 * count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def tokenizer_json() -> bytes:
    specials = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer.to_str().encode()


def base_files(**more: bytes | None) -> dict[str, bytes]:
    """A tiny Llama's files; `more` replaces, adds or (None) removes some, with `__` for a dot."""
    files: dict[str, bytes] = {
        "config.json": json.dumps(
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 512}
        ).encode(),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": json.dumps({"eos_token": "<|end|>", "chat_template": TEMPLATE}).encode(),
        "model.safetensors": safetensors(weight=[100, 50], bias=[50]),
        "README.md": b"# a model",
        "modeling_evil.py": b"raise SystemExit",
    }
    for name, content in more.items():
        if content is None:
            del files[name.replace("__", ".")]
        else:
            files[name.replace("__", ".")] = content
    return files


@dataclass
class StandIn:
    """The hub's content, its gate, its faults, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    gated: dict[str, str] = field(default_factory=dict[str, str])  # repository -> the token that opens it
    moved: dict[str, str] = field(default_factory=dict[str, str])
    endpoint: str = ""
    cdn: str = ""
    cut_after: dict[str, list[int]] = field(default_factory=dict[str, list[int]])  # file -> bytes of each answer
    corrupt: dict[str, int] = field(default_factory=dict[str, int])  # file -> how many answers are wrong
    busy: int = 0  # how many requests are answered 503
    ignores_ranges: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # path, Range
    tokens_at_cdn: list[str] = field(default_factory=list[str])
    sent_bytes: int = 0

    def is_large(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin")) or name == "tokenizer.json"


def _describe(hub: StandIn, repository: str) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for name, content in hub.repositories[repository].items():
        entry: dict[str, object] = {"rfilename": name, "size": len(content)}
        if hub.is_large(name):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entry["blobId"] = "f" * 40
        else:
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        siblings.append(entry)
    return {
        "id": repository,
        "sha": COMMIT,
        "gated": "manual" if repository in hub.gated else False,
        "cardData": {"license": "apache-2.0"},
        "safetensors": {"parameters": {"F32": 5050}, "total": 5050},
        "siblings": siblings,
    }


def _handler(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((path, self.headers.get("Range", "")))
            if hub.busy:
                hub.busy -= 1
                return self.answer(503, b"busy")
            if path.startswith("/cdn/"):
                hub.tokens_at_cdn.append(self.headers.get("Authorization", ""))
                repository, name = path.removeprefix("/cdn/").rsplit("/", 1)
                return self.send_file(name, hub.repositories[repository][name])
            if path.startswith("/api/models/"):
                repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                if repository in hub.moved:
                    return self.answer(307, b"", Location="/api/models/" + hub.moved[repository] + "?blobs=true")
                if repository not in hub.repositories:
                    return self.answer(401, b"Invalid username or password.")
                if revision not in ("", "main", COMMIT):
                    return self.answer(404, b"", X_Error_Code="RevisionNotFound")
                return self.answer(200, json.dumps(_describe(hub, repository)).encode())
            repository, _, rest = path[1:].partition("/resolve/")
            commit, _, name = rest.partition("/")
            if hub.gated.get(repository, "") not in self.headers.get("Authorization", ""):
                code = 403 if self.headers.get("Authorization") else 401
                return self.answer(code, b"", X_Error_Code="GatedRepo")
            content = hub.repositories.get(repository, {}).get(name)
            if commit != COMMIT or content is None:
                return self.answer(404, b"", X_Error_Code="EntryNotFound")
            if hub.is_large(name):
                linked = hashlib.sha256(content).hexdigest()
                return self.answer(
                    302,
                    b"",
                    Location=f"{hub.cdn}/cdn/{repository}/{name}",
                    X_Linked_ETag=f'"{linked}"',
                    X_Linked_Size=str(len(content)),
                    X_Repo_Commit=COMMIT,
                )
            return self.send_file(name, content)

        do_HEAD = do_GET

        def send_file(self, name: str, content: bytes) -> None:
            start = 0
            wanted = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
            if wanted and not hub.ignores_ranges:
                start = int(wanted)
            if hub.corrupt.get(name, 0):
                hub.corrupt[name] -= 1
                content = content[:-1] + bytes([content[-1] ^ 1])
            partial = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            cuts = hub.cut_after.get(name, [])
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            cut = cuts.pop(0) if cuts else None
            self.answer(206 if start else 200, content[start:], cut, ETag=tag, X_Repo_Commit=COMMIT, **partial)

        def answer(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[:cut])
            hub.sent_bytes += len(body[:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def stand_in_hub() -> Iterator[StandIn]:
    hub = StandIn()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
