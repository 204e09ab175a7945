"""The files of a base model: which are taken, what makes a set of them refused, and how a local folder is read.

Only what is named here is ever downloaded or loaded: safetensors, a fast tokenizer, configuration. No pickle and
no program of a model's author.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from core.errors import AttuneError

MIB = 1024 * 1024
# Small files that web side and renderer need, and the largest that each may be
LIGHT_FILES = {
    "config.json": 4 * MIB,
    "generation_config.json": MIB,
    "tokenizer.json": 128 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "chat_template.jinja": MIB,
    "special_tokens_map.json": MIB,
}
NEEDED_FILES = ("config.json", "tokenizer.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * MIB
MAX_HEADER_BYTES = 100 * MIB  # of a safetensors file, the format's own limit
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|h5|msgpack)")

# Decoder-only, text-only models with plain attention and linear layers, which packing and LoRA are made for;
# mixtures of experts hold their experts outside linear layers
ARCHITECTURES = (  # without their ending, ForCausalLM
    "Apertus", "Arcee", "Cohere", "Cohere2", "Exaone4", "Gemma", "Gemma2", "Gemma3", "Glm", "Glm4",
    "Granite", "Helium", "HunYuanDenseV1", "Llama", "Ministral", "Ministral3", "Mistral", "Olmo",
    "Olmo2", "Olmo3", "Phi", "Phi3", "Qwen2", "Qwen3", "SeedOss", "SmolLM3", "StableLm", "Starcoder2",
)  # fmt: skip


class FileRecord(TypedDict):
    """One file as a base model's row keeps it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Described:
    """What is known of a base once its files were looked at."""

    location: str  # repository id, or folder name below the models directory
    revision: str  # commit, or a hash over a folder's files
    files: tuple[FileRecord, ...]
    config: dict[str, Any]  # config.json
    light: Mapping[str, bytes] = field(repr=False)  # small files by name
    licence: str | None = None
    parameters: int | None = None
    gated: bool = False

    @property
    def context_tokens(self) -> int | None:
        value = self.config.get("max_position_embeddings")
        return value if isinstance(value, int) else None


def refused(message: str, code: str) -> AttuneError:
    return AttuneError(message, code=code, param="model")


def choose_files(location: str, names: Iterable[str], index: bytes | None) -> tuple[list[str], list[str]]:
    """(light files, weight files with their index) among a base's top-level `names`.

    `index` is the text of model.safetensors.index.json where there is no single model.safetensors.
    Raises AttuneError for a base without safetensors or without a fast tokenizer.
    """
    present = set(names)
    if WEIGHTS in present:
        weights = [WEIGHTS]
    elif index is not None:
        weights = [*_shards(location, index, present), WEIGHTS_INDEX]
    elif any(_PICKLES.fullmatch(name) for name in present):
        message = f"{location} has weights only as pickle files, which can run code. Only safetensors are loaded."
        raise refused(message, "base_model_unsafe")
    else:
        raise refused(f"{location} holds no {WEIGHTS}.", "base_model_unsupported")
    for name in NEEDED_FILES:
        if name not in present:
            raise refused(f"{location} holds no {name}, which training needs.", "base_model_unsupported")
    return [name for name in LIGHT_FILES if name in present], weights


def _shards(location: str, index: bytes, present: set[str]) -> list[str]:
    try:
        shards = {str(name) for name in json.loads(index)["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise refused(f"{location} has an unreadable {WEIGHTS_INDEX}.", "base_model_unsupported") from error
    for name in sorted(shards):
        if _SHARD.fullmatch(name) is None or name not in present:
            message = f"{location}: {WEIGHTS_INDEX} names {name[:200]!r}, which is none of its safetensors files."
            raise refused(message, "base_model_unsupported")
    return sorted(shards)


def read_config(location: str, light: Mapping[str, bytes]) -> dict[str, Any]:
    """config.json, after refusing custom code and architectures that cannot be trained here."""
    config = _json_object(location, "config.json", light["config.json"])
    tokenizer_config = light.get("tokenizer_config.json")
    settings = _json_object(location, "tokenizer_config.json", tokenizer_config) if tokenizer_config else {}
    for name, content in (("config.json", config), ("tokenizer_config.json", settings)):
        if "auto_map" in content:
            message = f"{location} asks to run its author's code (auto_map in {name}). That is never done."
            raise refused(message, "base_model_custom_code")
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "(none)"
    if architecture not in {name + "ForCausalLM" for name in ARCHITECTURES}:
        message = (
            f"{location} has the architecture {architecture[:100]}. "
            f"Text models of these can be trained: {', '.join(ARCHITECTURES)}."
        )
        raise refused(message, "base_model_unsupported")
    if "quantization_config" in config:
        message = f"{location} is quantised already; name the original. Training quantises it by itself."
        raise refused(message, "base_model_unsupported")
    return config


def _json_object(location: str, name: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refused(f"{location} has an unreadable {name}.", "base_model_unsupported") from error
    if not isinstance(value, dict):
        raise refused(f"{location} has a {name} that is no JSON object.", "base_model_unsupported")
    return value


def resolve_folder(models_dir: Path, name: str) -> Path:
    """The folder `name` directly below `models_dir`. One text for everything that is not there, so that no
    answer tells what else the machine holds."""
    folder = models_dir / name
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name) is not None
    if not plain or not folder.is_dir() or folder.resolve().parent != models_dir.resolve():
        raise refused(f"No folder {name[:100]!r} stands directly below the models directory.", "model_not_found")
    return folder


def describe_folder(models_dir: Path, name: str) -> Described:
    """A base that lies in a folder, with the hashes of its files. Its revision is the hash over those."""
    folder = resolve_folder(models_dir, name)
    names = [path.name for path in folder.iterdir() if path.is_file()]
    index = None
    if WEIGHTS_INDEX in names:
        index = _bounded(folder, WEIGHTS_INDEX, MAX_INDEX_BYTES)
    light_names, weight_names = choose_files(name, names, index)
    light = {file: _bounded(folder, file, LIGHT_FILES[file]) for file in light_names}
    config = read_config(name, light)
    files = tuple(_record(folder, file) for file in [*light_names, *weight_names])
    parameters = sum(_count(folder, file) for file in weight_names if file.endswith(".safetensors"))
    return Described(name, revision_of(files), files, config, light, parameters=parameters)


def revision_of(files: Iterable[FileRecord]) -> str:
    """40 hex digits over paths and hashes, as a commit has."""
    lines = sorted(f"{file['path']} {file['sha256']}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def inside(folder: Path, name: str) -> Path:
    """A file of `folder`; a link that leads out of it is refused."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        message = f"{name} in {folder.name} is a link out of its folder; copy the file there."
        raise refused(message, "base_model_unsafe")
    return path


def _bounded(folder: Path, name: str, limit: int) -> bytes:
    with inside(folder, name).open("rb") as file:
        content = file.read(limit + 1)
    return check_size(folder.name, name, content, limit)


def check_size(location: str, name: str, content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        message = f"{location}: {name} is larger than {limit // MIB} MiB, which no base model needs."
        raise refused(message, "base_model_unsupported")
    return content


def _record(folder: Path, name: str) -> FileRecord:
    path = inside(folder, name)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": name, "bytes": path.stat().st_size, "sha256": digest}


def _count(folder: Path, name: str) -> int:
    """Numbers in a safetensors file, from its header alone.
    https://github.com/huggingface/safetensors#format"""
    with inside(folder, name).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, MAX_HEADER_BYTES + 1))
    try:
        if len(header) != size or size > MAX_HEADER_BYTES:
            raise ValueError("cut short")
        tensors = json.loads(header)
        return sum(math.prod(tensor["shape"]) for key, tensor in tensors.items() if key != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refused(f"{folder.name}: {name} is no safetensors file.", "base_model_unsupported") from error
