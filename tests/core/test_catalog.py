"""The catalog: entries and their life, preparation from hub and folder, and the files on a worker's disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from core.bases import catalog
from core.bases.files import ARCHITECTURES, describe_folder, revision_of
from core.db import Database
from core.errors import AttuneError, NotFound, Unavailable
from core.models import BaseModelRow
from core.rendering.render import Renderer
from core.settings import Settings
from core.store.storage import Storage, open_storage
from tests.core.stand_in_hub import COMMIT, MODEL, StandIn, base_files


@pytest.fixture
def settings(tmp_path: Path, hub: StandIn) -> Settings:
    return Settings(data_dir=tmp_path, models_dir=tmp_path / "models", hub_endpoint=hub.endpoint)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings)


def put_folder(settings: Settings, name: str, **changes: bytes | None) -> Path:
    folder = settings.resolved_models_dir / name
    folder.mkdir(parents=True)
    for path, content in base_files(**changes).items():
        (folder / path).write_bytes(content)
    return folder


def ready(database: Database, storage: Storage, settings: Settings, location: str, **how: str) -> BaseModelRow:
    with database.begin() as session:
        row = catalog.add(session, location, **how)  # pyright: ignore[reportArgumentType]
    return catalog.make_ready(database, storage, settings, row)


# Entries


def test_the_shipped_list_is_sound() -> None:
    entries = catalog.shipped()
    assert len(entries) >= 30
    assert len({entry.id for entry in entries}) == len(entries)
    for family in (
        "Llama",
        "Qwen2.5",
        "Qwen3",
        "Mistral",
        "gemma-2",
        "gemma-3",
        "phi",
        "SmolLM",
        "R1-Distill",
        "granite",
        "lmo",
    ):
        assert any(family in entry.id for entry in entries), family
    for entry in entries:
        assert entry.parameters > 10**8
        assert entry.context_tokens >= 2048
        assert entry.description.endswith(".")


def test_what_we_call_trainable_transformers_calls_a_causal_model() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert {name + "ForCausalLM" for name in ARCHITECTURES} <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def test_start_registers_the_shipped_list_once(database: Database, settings: Settings) -> None:
    for _ in range(2):
        with database.begin() as session:
            catalog.register(session, settings)
    with database.read() as session:
        rows = catalog.list_usable(session)
    assert sorted(row.id for row in rows) == sorted(entry.id for entry in catalog.shipped())
    assert {row.status for row in rows} == {"available"}


def test_entries_come_and_go(database: Database, settings: Settings) -> None:
    with database.begin() as session:
        assert catalog.add(session, MODEL).status == "preparing"
        assert catalog.find(session, MODEL).location == MODEL
        assert [row.id for row in catalog.list_usable(session)] == [MODEL]
        catalog.remove(session, MODEL)
    with database.begin() as session:
        assert catalog.list_usable(session) == catalog.list_all(session) == []
        for missing in (catalog.find, catalog.remove):
            with pytest.raises(NotFound) as unknown:
                missing(session, MODEL)
            assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        assert catalog.add(session, MODEL).removed_at is None
        assert [row.id for row in catalog.list_usable(session)] == [MODEL]


@pytest.mark.parametrize("id", ["", "é", "a\nb", "../", "x" * 201])
def test_names_that_are_none(sqlite: Database, id: str) -> None:
    with sqlite.begin() as session:
        with pytest.raises(AttuneError) as refused:
            catalog.add(session, MODEL, id=id or "/")
        assert refused.value.code == "invalid_model_id"


# From the hub


def test_a_hub_model_becomes_ready_and_is_used(
    database: Database, storage: Storage, settings: Settings, hub: StandIn, tmp_path: Path
) -> None:
    row = ready(database, storage, settings, MODEL)

    assert (row.status, row.revision, row.error) == ("ready", COMMIT, None)
    assert (row.licence, row.parameters, row.context_tokens, row.gated) == ("apache-2.0", 5050, 512, False)
    assert row.shape is not None
    assert row.shape["architectures"] == ["LlamaForCausalLM"]
    assert not any("model.safetensors" in path for path, _ in hub.asked)  # no weights on the web side

    light = catalog.light_folder(storage, row, tmp_path / "cache")
    assert {path.name for path in light.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert Renderer.from_folder(light, catalog.TEMPLATE_DATE).template.hash == row.template_hash

    folder = catalog.weights_folder(settings, row, lambda done, total: None)
    for file in row.files:
        assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert not list(folder.glob("*.py"))
    hub.repositories.clear()
    hub.asked.clear()
    assert catalog.weights_folder(settings, row, lambda done, total: None) == folder
    assert catalog.light_folder(storage, row, tmp_path / "cache") == light
    assert hub.asked == []


def test_a_ready_entry_stays_pinned(sqlite: Database, storage: Storage, settings: Settings, hub: StandIn) -> None:
    ready(sqlite, storage, settings, MODEL)
    with sqlite.begin() as session:
        with pytest.raises(AttuneError) as refused:
            catalog.add(session, MODEL, revision="v2")
        assert refused.value.code == "base_model_exists"
        catalog.remove(session, MODEL)
    with sqlite.begin() as session:
        assert catalog.add(session, MODEL).revision == COMMIT


def test_a_damaged_or_missing_weight_file_is_fetched_again(
    sqlite: Database, storage: Storage, settings: Settings
) -> None:
    row = ready(sqlite, storage, settings, MODEL)
    folder = catalog.weights_folder(settings, row, lambda done, total: None)
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\1")
    (folder / "tokenizer.json").unlink()

    catalog.weights_folder(settings, row, lambda done, total: None)

    assert weights.read_bytes() == good
    assert (folder / "tokenizer.json").is_file()


def test_waiting_entries_are_prepared_and_failures_are_kept(
    database: Database, storage: Storage, settings: Settings, hub: StandIn
) -> None:
    hub.repositories["maker/pickle"] = base_files(model__safetensors=None, pytorch_model__bin=b"")
    hub.gated["maker/gated"] = "hf_x"
    hub.repositories["maker/gated"] = base_files()
    with database.begin() as session:
        for location in (MODEL, "maker/pickle", "maker/gated", "maker/none"):
            catalog.add(session, location)

    catalog.prepare_waiting(database, storage, settings)

    with database.read() as session:
        rows = {row.id: row for row in catalog.list_all(session)}
        assert [row.id for row in catalog.list_usable(session)] == [MODEL]
    assert rows[MODEL].status == "ready"
    assert "pickle" in (rows["maker/pickle"].error or "")
    assert "ATTUNE_HUB_TOKEN_FILE" in (rows["maker/gated"].error or "")
    assert "maker/none" in (rows["maker/none"].error or "")
    assert {row.status for row in rows.values() if row.id != MODEL} == {"error"}

    hub.gated.clear()
    with database.begin() as session:
        assert catalog.add(session, "maker/gated").error is None
    catalog.prepare_waiting(database, storage, settings)
    with database.read() as session:
        assert catalog.find(session, "maker/gated").status == "ready"


def test_a_shipped_entry_whose_hub_is_away_can_be_tried_again(
    sqlite: Database, storage: Storage, settings: Settings, hub: StandIn
) -> None:
    with sqlite.begin() as session:
        catalog.register(session, settings)
        row = catalog.find(session, "Qwen/Qwen3-0.6B")
    hub.busy = 5
    with pytest.raises(Unavailable) as away:
        catalog.make_ready(sqlite, storage, settings, row)
    assert away.value.code == "base_model_unavailable"
    with sqlite.read() as session:
        row = catalog.find(session, row.id)
    assert row.status == "available"
    assert row.error == away.value.message

    hub.repositories[row.id] = base_files()
    row = catalog.make_ready(sqlite, storage, settings, row)
    assert (row.status, row.error) == ("ready", None)
    assert row.description  # ours stays


def test_a_storage_that_is_away_is_no_fault_of_the_base(
    sqlite: Database, storage: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite.begin() as session:
        row = catalog.add(session, MODEL)
    (settings.data_dir / "objects/.staging").rmdir()
    with pytest.raises(Unavailable, match="storage"):
        catalog.prepare_waiting(sqlite, storage, settings)
    with sqlite.read() as session:
        assert catalog.find(session, row.id).status == "preparing"


# From a folder


def test_a_folder_becomes_ready_and_is_used_in_place(
    sqlite: Database, storage: Storage, settings: Settings, tmp_path: Path, hub: StandIn
) -> None:
    folder = put_folder(settings, "mine")
    row = ready(sqlite, storage, settings, "mine", source="folder", id="my-model")

    assert (row.id, row.status, row.parameters, row.context_tokens) == ("my-model", "ready", 5050, 512)
    assert len(row.revision) == 40
    assert catalog.weights_folder(settings, row, lambda done, total: None) == folder
    assert (catalog.light_folder(storage, row, tmp_path / "cache") / "tokenizer.json").is_file()
    assert hub.asked == []


def test_hashes_of_a_folder_are_checked_once_for_each_change(
    sqlite: Database, storage: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = put_folder(settings, "mine") / "model.safetensors"
    row = ready(sqlite, storage, settings, "mine", source="folder")
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(file: object, name: str) -> object:
        hashed.append(name)
        return digest(file, name)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    catalog.weights_folder(settings, row, lambda done, total: None)
    assert len(hashed) == len(row.files)
    catalog.weights_folder(settings, row, lambda done, total: None)
    assert len(hashed) == len(row.files)

    os.utime(weights)  # touched, the bytes are the same
    catalog.weights_folder(settings, row, lambda done, total: None)
    assert len(hashed) == len(row.files) + 1

    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\1")
    for _ in range(2):
        with pytest.raises(AttuneError) as changed:
            catalog.weights_folder(settings, row, lambda done, total: None)
        assert changed.value.code == "base_model_changed"
        assert "model.safetensors" in changed.value.message
    weights.write_bytes(content)
    catalog.weights_folder(settings, row, lambda done, total: None)


@pytest.mark.parametrize("name", ["", ".", "..", "../models", "/etc", ".hub", "none", "a/b", "a\0b", "file", "outside"])
def test_folders_that_are_not_below_the_models_directory(settings: Settings, tmp_path: Path, name: str) -> None:
    put_folder(settings, "mine")
    (settings.resolved_models_dir / "file").touch()
    elsewhere = put_folder(Settings(models_dir=tmp_path / "elsewhere"), "secret")
    (settings.resolved_models_dir / "outside").symlink_to(elsewhere)
    with pytest.raises(AttuneError) as refused:
        describe_folder(settings.resolved_models_dir, name)
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_links_out_of_a_folder_are_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    folder = put_folder(settings, "mine")
    (tmp_path / "outside").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(AttuneError) as refused:
        describe_folder(settings.resolved_models_dir, "mine")
    assert refused.value.code == "base_model_unsafe"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model__safetensors": None, "pytorch_model__bin": b""}, "base_model_unsafe"),
        ({"model__safetensors": b"\xff" * 8 + b"{}"}, "base_model_unsupported"),
        ({"model__safetensors": b"\2\0\0\0\0\0\0\0[]"}, "base_model_unsupported"),
        ({"tokenizer__json": None}, "base_model_unsupported"),
        ({"config__json": json.dumps({"auto_map": {}}).encode()}, "base_model_custom_code"),
    ],
)
def test_folders_that_are_refused(settings: Settings, changes: dict[str, bytes | None], code: str) -> None:
    put_folder(settings, "mine", **changes)
    with pytest.raises(AttuneError) as refused:
        describe_folder(settings.resolved_models_dir, "mine")
    assert refused.value.code == code


def test_the_demo_base_is_registered_and_followed(sqlite: Database, storage: Storage, settings: Settings) -> None:
    def start() -> BaseModelRow | None:
        with sqlite.begin() as session:
            catalog.register(session, settings)
        catalog.prepare_waiting(sqlite, storage, settings)
        with sqlite.read() as session:
            return session.get(BaseModelRow, catalog.DEMO_BASE)

    assert start() is None
    put_folder(settings, "other")  # only the demo base comes by itself
    folder = put_folder(settings, catalog.DEMO_BASE)
    first = start()
    assert first is not None
    assert first.status == "ready"
    assert start().revision == first.revision  # pyright: ignore[reportOptionalMemberAccess]

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"\1")
    rebuilt = start()
    assert rebuilt is not None
    assert rebuilt.status == "ready"
    assert rebuilt.revision != first.revision == revision_of(first.files)

    with sqlite.read() as session:
        assert session.get(BaseModelRow, "other") is None
