"""Settings from the environment and from files, and which of them are nobody's to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import AttuneError
from core.settings import PREFIX, Settings, load_settings

SECRET = {
    "database_url": "postgresql://attune:p%40ss-word@db:5432/attune",
    "broker_url": "redis://:another-password@redis:6379/0",
    "mlflow_tracking_uri": "https://team:third@password@mlflow.lan",
    "s3_secret_access_key": "the-key-of-the-store",
    "hub_token": "hf_abcdefgh",
    "serve_token": "shared-by-servers",
}


def test_every_setting_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRET.items():
        (tmp_path / name).write_text(f"{value}\n")
        monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(tmp_path / name))
    settings = load_settings()
    assert {name: getattr(settings, name) for name in SECRET} == SECRET


def test_a_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_HUB_TOKEN_FILE", str(tmp_path / "nothing"))
    with pytest.raises(AttuneError, match=r"ATTUNE_HUB_TOKEN_FILE names .*nothing, which cannot be read") as refused:
        load_settings()
    assert refused.value.code == "unreadable_setting"


def test_secrets_are_keys_tokens_and_the_passwords_of_addresses() -> None:
    found = set(Settings(**SECRET).secrets)  # pyright: ignore[reportArgumentType]
    assert found == {
        "p%40ss-word",
        "p@ss-word",
        "another-password",
        "third@password",
        "the-key-of-the-store",
        "hf_abcdefgh",
        "shared-by-servers",
    }
    assert Settings(broker_url="redis://redis:6379/0", s3_endpoint="https://s3.lan").secrets == ()


def test_a_setting_that_sounds_secret_is_one_of_them() -> None:
    """Whoever adds a key, a token or a password has to say so."""
    shown = {"s3_access_key_id", "operator_key_file"}
    sounding = {name for name in Settings.model_fields if any(word in name for word in ("key", "token", "password"))}
    for name in sounding - shown:
        assert Settings(**{name: "a-secret"}).secrets == ("a-secret",), name  # pyright: ignore[reportArgumentType]
