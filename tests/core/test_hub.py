"""Downloads against a server that speaks the hub's routes: pinned, verified, resumed, refused, mirrored."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.bases.files import FileRecord
from core.bases.hub import Hub
from core.errors import AttuneError, Unavailable
from core.settings import Settings
from tests.core.stand_in_hub import COMMIT, MODEL, StandIn, base_files, safetensors

BIG = safetensors(weight=[700, 1000])  # 2.8 MB, so that a download has several blocks


def client(hub: StandIn, token: str = "") -> Hub:
    return Hub(Settings(hub_endpoint=hub.endpoint + "/", hub_token=token))


def record(name: str, content: bytes) -> FileRecord:
    return {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def refusal(hub: StandIn, name: str = MODEL, revision: str | None = None, token: str = "") -> AttuneError:
    with client(hub, token) as connection, pytest.raises(AttuneError) as refused:
        connection.describe(name, revision)
    return refused.value


# Describing


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_base_is_pinned_with_a_hash_for_each_file(hub: StandIn, revision: str | None) -> None:
    with client(hub) as connection:
        described = connection.describe(MODEL, revision)

    files = hub.repositories[MODEL]
    taken = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    assert described.revision == COMMIT
    assert sorted(described.files, key=lambda file: file["path"]) == sorted(
        (record(name, files[name]) for name in taken), key=lambda file: file["path"]
    )
    assert dict(described.light) == {name: files[name] for name in taken if name != "model.safetensors"}
    assert (described.licence, described.parameters, described.gated) == ("apache-2.0", 5050, False)
    assert described.context_tokens == 512
    assert not any(path.endswith((".py", ".md", "model.safetensors")) for path, _ in hub.asked)


def test_shards_are_those_that_the_index_names(hub: StandIn) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    hub.repositories[MODEL] = base_files(
        model__safetensors=None,
        **{
            "model__safetensors__index__json": index,
            "model-1__safetensors": safetensors(a=[1]),
            "model-2__safetensors": safetensors(b=[1]),
            "consolidated__safetensors": safetensors(c=[1]),
        },
    )
    with client(hub) as connection:
        paths = [file["path"] for file in connection.describe(MODEL).files]
    assert [path for path in paths if "model" in path] == [
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]
    assert "consolidated.safetensors" not in paths


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/etc/passwd", "model.bin", "missing.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(hub: StandIn, shard: str) -> None:
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    hub.repositories[MODEL] = base_files(model__safetensors=None, model__safetensors__index__json=index)
    assert refusal(hub).code == "base_model_unsupported"


CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        (base_files(model__safetensors=None, pytorch_model__bin=b"\x80\x04"), "base_model_unsafe", "pickle"),
        (base_files(model__safetensors=None), "base_model_unsupported", "model.safetensors"),
        (base_files(tokenizer__json=None), "base_model_unsupported", "tokenizer.json"),
        (base_files(config__json=None), "base_model_unsupported", "config.json"),
        (
            base_files(config__json=json.dumps({**CONFIG, "auto_map": {"AutoModel": "x.Y"}}).encode()),
            "base_model_custom_code",
            "config.json",
        ),
        (
            base_files(tokenizer_config__json=json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}).encode()),
            "base_model_custom_code",
            "tokenizer_config.json",
        ),
        (
            base_files(config__json=json.dumps({**CONFIG, "architectures": ["BertModel"]}).encode()),
            "base_model_unsupported",
            "BertModel",
        ),
        (
            base_files(config__json=json.dumps({**CONFIG, "quantization_config": {"bits": 4}}).encode()),
            "base_model_unsupported",
            "quantised already",
        ),
        (base_files(config__json=b"[1]"), "base_model_unsupported", "config.json"),
        (base_files(config__json=b"{"), "base_model_unsupported", "config.json"),
        (base_files(config__json=b" " * (4 * 1024 * 1024 + 1)), "base_model_unsupported", "larger than"),
    ],
)
def test_what_is_refused(hub: StandIn, files: dict[str, bytes], code: str, says: str) -> None:
    hub.repositories[MODEL] = files
    error = refusal(hub)
    assert error.code == code
    assert says in error.message
    assert error.status == 400


@pytest.mark.parametrize("name", ["nobody/nothing", "../x", "a/b/c", "https://evil", "", "a" * 300, "maker/..", "é"])
def test_models_that_do_not_exist(hub: StandIn, name: str) -> None:
    assert refusal(hub, name).code == "model_not_found"


@pytest.mark.parametrize("revision", ["v9", "../main", "a b", ""])
def test_revisions_that_do_not_exist(hub: StandIn, revision: str) -> None:
    assert refusal(hub, MODEL, revision).code == "model_not_found"


def test_a_renamed_repository_is_followed(hub: StandIn) -> None:
    hub.moved["old/name"] = MODEL
    with client(hub) as connection:
        assert connection.describe("old/name").location == MODEL


def test_a_gated_model(hub: StandIn) -> None:
    hub.gated[MODEL] = "hf_right"
    without, wrong = refusal(hub), refusal(hub, token="hf_wrong")
    assert without.code == wrong.code == "gated_model"
    assert "ATTUNE_HUB_TOKEN_FILE" in without.message
    assert "no access" in wrong.message
    assert "hf_wrong" not in wrong.message

    with client(hub, "hf_right") as connection:
        assert connection.describe(MODEL).gated
    assert set(hub.tokens_at_cdn) == {""}  # the token goes to the hub alone


def test_a_small_file_with_other_bytes_is_refused(hub: StandIn) -> None:
    for name in ("config.json", "tokenizer.json"):
        hub.corrupt[name] = 1
        assert refusal(hub).code == "base_model_corrupt"


def test_a_busy_hub_is_asked_again(hub: StandIn) -> None:
    hub.busy = 3
    with client(hub) as connection:
        assert connection.describe(MODEL).revision == COMMIT
    assert hub.busy == 0


@pytest.mark.usefixtures("no_waiting")
def test_a_hub_that_is_away() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Hub(Settings(hub_endpoint=endpoint)) as connection, pytest.raises(Unavailable) as away:
            connection.describe(MODEL)
    assert away.value.code == "base_model_unavailable"
    for way_out in (endpoint, "HTTPS_PROXY", "ATTUNE_HUB_ENDPOINT", "attune models add"):
        assert way_out in away.value.message


def test_an_endpoint_that_is_no_hub(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.core.stand_in_hub._describe", lambda *_: {"hello": "world"})
    assert refusal(hub).code == "base_model_unavailable"


def test_proxies_of_the_environment_are_used(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    # the stand-in takes absolute addresses too, so it serves as its own proxy
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
    with Hub(Settings(hub_endpoint="http://hub.invalid")) as connection:
        assert connection.resolve(MODEL).commit == COMMIT


def test_the_official_client_takes_the_stand_in_for_a_hub(hub: StandIn, tmp_path: Path) -> None:
    program = (
        "import huggingface_hub as h, sys; api = h.HfApi(endpoint=sys.argv[1], token=False);"
        "info = api.model_info(sys.argv[2], files_metadata=True); print(info.sha);"
        "[api.hf_hub_download(sys.argv[2], s.rfilename, revision=info.sha, local_dir=sys.argv[3])"
        " for s in info.siblings]"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", program, hub.endpoint, MODEL, str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == COMMIT
    for name, content in hub.repositories[MODEL].items():
        assert (tmp_path / "out" / name).read_bytes() == content


# Downloading


@pytest.fixture
def big(hub: StandIn) -> list[FileRecord]:
    hub.repositories[MODEL] = base_files(model__safetensors=BIG)
    with client(hub) as connection:
        described = connection.describe(MODEL)
    hub.asked.clear()
    return list(described.files)


def fetch(hub: StandIn, files: list[FileRecord], folder: Path) -> list[tuple[int, int]]:
    progress: list[tuple[int, int]] = []
    with client(hub) as connection:
        connection.fetch_weights(MODEL, COMMIT, files, folder, lambda done, total: progress.append((done, total)))
    return progress


def test_a_download_is_whole_and_reported(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    total = sum(file["bytes"] for file in big)
    progress = fetch(hub, big, tmp_path / "base")

    for file in big:
        assert (tmp_path / "base" / file["path"]).read_bytes() == hub.repositories[MODEL][file["path"]]
    assert progress[0] == (0, total)
    assert progress[-1] == (total, total)
    assert progress == sorted(progress)

    hub.asked.clear()
    assert fetch(hub, big, tmp_path / "base") == [(total, total)] * 2
    assert hub.asked == []


def test_a_cut_download_goes_on_where_it_was(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    hub.cut_after["model.safetensors"] = [1_500_000, 0, 500_000]
    hub.sent_bytes = 0
    fetch(hub, big, tmp_path / "base")

    assert (tmp_path / "base/model.safetensors").read_bytes() == BIG
    resumed = [asked for path, asked in hub.asked if path.startswith("/cdn/") and "model" in path]
    assert len(resumed) == 4
    assert resumed[0] == "bytes=0-"
    assert all(int(asked[6:-1]) > 1_000_000 for asked in resumed[1:])
    assert hub.sent_bytes < len(BIG) * 1.6 + 200_000


def test_a_download_that_was_given_up_is_continued_later(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    hub.cut_after["model.safetensors"] = [2_000_000, *([0] * 10)]
    with pytest.raises(Unavailable) as away:
        fetch(hub, big, tmp_path / "base")
    assert away.value.code == "base_model_unavailable"
    assert not (tmp_path / "base/model.safetensors").exists()

    hub.cut_after.clear()
    hub.asked.clear()
    fetch(hub, big, tmp_path / "base")
    assert (tmp_path / "base/model.safetensors").read_bytes() == BIG
    assert all(int(asked[6:-1]) > 1_000_000 for path, asked in hub.asked if "model.safetensors" in path)


def test_a_server_without_ranges_sends_the_whole_again(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    hub.cut_after["model.safetensors"] = [1_500_000]
    hub.ignores_ranges = True
    fetch(hub, big, tmp_path / "base")
    assert (tmp_path / "base/model.safetensors").read_bytes() == BIG


def test_wrong_bytes_never_get_a_name(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    hub.corrupt["model.safetensors"] = 1
    fetch(hub, big, tmp_path / "once")
    assert (tmp_path / "once/model.safetensors").read_bytes() == BIG

    hub.corrupt["model.safetensors"] = 2
    with pytest.raises(Unavailable) as corrupt:
        fetch(hub, big, tmp_path / "twice")
    assert corrupt.value.code == "base_model_corrupt"
    assert not list((tmp_path / "twice").glob("*model*"))


@pytest.mark.parametrize("change", [b"more", None])
def test_a_file_of_another_length_is_refused(
    hub: StandIn, big: list[FileRecord], tmp_path: Path, change: bytes | None
) -> None:
    hub.repositories[MODEL]["model.safetensors"] = BIG + change if change else BIG[:-9]
    with pytest.raises(Unavailable) as corrupt:
        fetch(hub, big, tmp_path / "base")
    assert corrupt.value.code == "base_model_corrupt"


def test_two_that_want_the_same_base_share_one_download(hub: StandIn, big: list[FileRecord], tmp_path: Path) -> None:
    hub.sent_bytes = 0
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: fetch(hub, big, tmp_path / "base"), range(3)))
    assert hub.sent_bytes == sum(file["bytes"] for file in big)


def test_a_download_without_room_is_refused_at_once(hub: StandIn, tmp_path: Path) -> None:
    files: list[FileRecord] = [{"path": "model.safetensors", "bytes": 10**18, "sha256": "0" * 64}]
    with pytest.raises(Unavailable, match="GiB"):
        fetch(hub, files, tmp_path / "base")
    assert hub.asked == []
