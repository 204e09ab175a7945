"""The only reader of the environment. Three URLs decide the deployment; the rest are limits and addresses.

Every setting X is `ATTUNE_X` in the environment, or the path of a file that holds it in `ATTUNE_X_FILE`
(for secrets: nothing secret has to stand in an environment).
"""

from __future__ import annotations

import os
import re
import socket
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import AttuneError

PREFIX = "ATTUNE_"
_PASSWORD = re.compile(r"://[^/@\s]*?:([^/\s]+)@")
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


def _values_from_files() -> dict[str, str]:
    """`ATTUNE_X_FILE=/path` becomes x=<the file's text, stripped>."""
    values: dict[str, str] = {}
    for name, path in os.environ.items():
        if name.startswith(PREFIX) and name.endswith("_FILE") and path:
            key = name.removeprefix(PREFIX).removesuffix("_FILE").lower()
            if key not in Settings.model_fields:
                continue
            try:
                values[key] = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise AttuneError(
                    f"{name} names {path}, which cannot be read: {error}", code="unreadable_setting"
                ) from error
    return values


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


class Settings(BaseSettings):
    """Frozen once read; pass it down rather than reading again."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data_dir: Path = Path("data")

    # The three URLs. Empty means embedded: SQLite, a folder and the file broker below data_dir.
    database_url: str = ""
    storage_url: str = ""
    broker_url: str = ""

    # S3-compatible storage, beside storage_url=s3://bucket/prefix
    s3_endpoint: str = ""  # empty: AWS
    s3_region: str = "us-east-1"
    s3_access_key_id: str = ""
    s3_secret_access_key: str = ""
    storage_public_url: str = ""  # the store's address as browsers know it; set: downloads go by signed URL

    # Web side
    host: str = "127.0.0.1"
    port: int = 8000
    max_file_bytes: int = 512 * 1024 * 1024
    max_upload_bytes: int = 8 * 1024 * 1024 * 1024  # of a file that comes in parts
    max_json_bytes: int = 1024 * 1024
    max_line_bytes: int = 1024 * 1024
    max_connections: int = Field(4000, ge=4)  # of a web process; three quarters of them may be streams
    max_streams: int = Field(1000, ge=1)  # of a project at once, in a web process: followed jobs, chats, downloads
    max_uploads: int = Field(32, ge=1)  # of a project at once, in a web process
    result_files_base64: bool = False  # hand out result files as OpenAI does, encoded
    janitor_interval_s: float = 5.0
    operator_key_file: str = ""  # where the first operator key is left; empty: data_dir/operator-key
    log_level: str = "info"
    audit_keep_days: int = Field(365, ge=1)  # then the janitor forgets who called what
    dashboard: bool = True  # False: REST alone
    cors_origins: str = ""  # sites whose scripts may call the API from a browser; comma separated
    embed_origins: str = ""  # sites that may show /embed/jobs/… in a frame; comma separated
    webhook_allow: str = ""  # names, addresses and networks inside that webhooks may reach; comma separated

    # Integrations
    mlflow_tracking_uri: str = ""  # of jobs that ask for mlflow and name no server; any that MLflow knows
    mlflow_allow: str = ""  # hosts, with their ports, that a job may name as tracking_uri; comma separated

    # Models
    models_dir: Path | None = None  # weights of base models; None: data_dir/models
    hub_endpoint: str = "https://huggingface.co"
    hub_token: str = ""  # for gated models; best given as ATTUNE_HUB_TOKEN_FILE

    # Worker
    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-worker")
    worker_labels: str = ""  # comma separated
    worker_memory_bytes: int = 0  # 0: what the device has
    price_per_hour: float | None = Field(None, ge=0)  # of this worker, in the operator's own currency, for plans
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    engine_module: str = "worker.engine"  # the program that trains; another one has to speak core.protocol
    engine_threads: int = 0  # 0: as many as there are cores
    engine_processes: int = Field(0, ge=0)  # of one job; 0: one for each GPU the worker sees, one on a CPU
    stall_s: float = Field(1800.0, ge=0)  # an engine that trains and says nothing for so long hangs; 0: never
    engine_memory_bytes: int = Field(0, ge=0)  # that an engine on a CPU may map; 0: the worker's memory
    engine_idle_s: float = 900.0  # a warm engine without work ends after this
    engine_memory_growth: float = 2.0  # a warm engine whose resident size has grown by this factor is replaced
    lease_s: float = 60.0
    beat_s: float = 10.0
    snapshot_interval_s: float = 10.0
    keep_checkpoints: int = 3  # per job, newest; the final model is always kept
    keep_snapshots: int = 2
    stop_grace_s: float = 8.0  # a drained engine has this long to save its snapshot

    # Server (worker.serve)
    serve_host: str = "127.0.0.1"
    serve_port: int = 8001
    serve_address: str = ""  # as the web side reaches it; empty: http://serve_host:serve_port
    serve_token: str = ""  # shared by web side and servers; empty: data_dir/serve-token, made on first use
    serve_adapters: int = 16  # adapters held at once per base
    serve_bases: int = 2  # bases held at once on a CPU; a GPU holds one

    @field_validator("cors_origins", "embed_origins")
    @classmethod
    def _are_origins(cls, listed: str) -> str:
        """They become parts of headers: nothing but origins may stand there."""
        for one in _listed(listed):
            if _ORIGIN.fullmatch(one) is None:
                raise ValueError(
                    f"{one!r} is no origin; write it as https://board.example.com, with a port if it has one"
                )
        return listed

    @cached_property
    def cors_origin_list(self) -> list[str]:
        return _listed(self.cors_origins)

    @cached_property
    def embed_origin_list(self) -> list[str]:
        return _listed(self.embed_origins)

    @cached_property
    def resolved_database_url(self) -> str:
        """SQLAlchemy URL; `postgres://` and `postgresql://` mean psycopg 3."""
        url = self.database_url or f"sqlite:///{(self.data_dir / 'attune.db').resolve()}"
        for scheme in ("postgres://", "postgresql://"):
            if url.startswith(scheme):
                return "postgresql+psycopg://" + url.removeprefix(scheme)
        return url

    @cached_property
    def resolved_storage_url(self) -> str:
        """`s3://bucket/prefix`, or `file:///absolute/folder`."""
        return self.storage_url or (self.data_dir / "objects").resolve().as_uri()

    @cached_property
    def resolved_broker_url(self) -> str:
        """`redis://…`, or `filesystem:///absolute/folder`."""
        return self.broker_url or "filesystem://" + str((self.data_dir / "broker").resolve())

    @cached_property
    def resolved_models_dir(self) -> Path:
        return (self.models_dir or self.data_dir / "models").resolve()

    @cached_property
    def resolved_operator_key_file(self) -> Path:
        return Path(self.operator_key_file) if self.operator_key_file else self.data_dir / "operator-key"

    @cached_property
    def resolved_serve_address(self) -> str:
        return self.serve_address or f"http://{self.serve_host}:{self.serve_port}"

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may read: keys, tokens, and the passwords within addresses."""
        addresses = (self.database_url, self.storage_url, self.broker_url, self.s3_endpoint, self.mlflow_tracking_uri)
        passwords = [found[1] for address in addresses if (found := _PASSWORD.search(address))]
        named = (self.s3_secret_access_key, self.hub_token, self.serve_token)
        return tuple(filter(None, (*named, *passwords, *map(unquote, passwords))))

    @cached_property
    def work_dir(self) -> Path:
        """Scratch of this machine's workers and servers; nothing in it is the only copy of anything."""
        return (self.data_dir / "work").resolve()


def load_settings(**overrides: object) -> Settings:
    """Read the environment once. `overrides` win over it (the command line's flags)."""
    return Settings(**{**_values_from_files(), **overrides})  # pyright: ignore[reportArgumentType]
