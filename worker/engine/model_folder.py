"""A fully trained model as a folder like its base's: the same configuration and tokenizer, other weights, with the
frozen template and a manifest beside them. transformers loads it, and the catalog takes it as a base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import AttuneError
from core.rendering.render import Renderer, Template
from worker.engine.adapter import MANIFEST, TOKENIZER, JsonValue, json_bytes
from worker.engine.publish import published, sync_file, write_bytes

WEIGHTS = "model.safetensors"
# Of the base, where it has them
COPIED = (
    "config.json",
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class StoredModel:
    """A model folder read back, without its weights."""

    folder: Path
    sha256: str  # of model.safetensors
    renderer: Renderer


def write_model(
    folder: Path,
    model: PreTrainedModel,
    dtype: torch.dtype,
    *,
    base_folder: Path,
    base_model: str,
    revision: str,
    template: Template,
    manifest: Mapping[str, JsonValue],
) -> str:
    """Publish `model` with its weights in `dtype`; fsynced, and all or nothing. Returns the hash of its weights."""
    # By address, so that a weight with two names stays one
    rounded: dict[int, Tensor] = {}
    tensors = {
        name: rounded.setdefault(value.data_ptr(), value.to(dtype)) for name, value in model.state_dict().items()
    }
    with published(folder) as partial:
        # transformers knows which weights are shared, and by which names files hold them
        model.save_pretrained(partial, state_dict=tensors, max_shard_size="1000GB")
        for name in COPIED:
            if (base_folder / name).exists():
                write_bytes(partial / name, (base_folder / name).read_bytes())
        sha256 = hash_of(partial / WEIGHTS)
        sync_file(partial / WEIGHTS)
        whole: dict[str, JsonValue] = {
            **manifest,
            "format": 1,
            "base_model": base_model,
            "base_revision": revision,
            "weights_sha256": sha256,
            "template": json.loads(template.to_json()),
            "template_hash": template.hash,
        }
        write_bytes(partial / "README.md", _model_card(base_model, revision, sha256).encode())
        write_bytes(partial / MANIFEST, json_bytes(whole))
    return sha256


def read_model(folder: Path) -> StoredModel:
    """Read a published model folder with its frozen template. Raises AttuneError with code model_unreadable."""
    try:
        template = Template.from_json(json.dumps(json.loads((folder / MANIFEST).read_bytes())["template"]))
        renderer = Renderer((folder / TOKENIZER).read_bytes(), template)
        sha256 = hash_of(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttuneError) as error:
        raise AttuneError(
            f"the model cannot be read: {type(error).__name__}: {error}", code="model_unreadable", param="model"
        ) from error
    return StoredModel(folder, sha256, renderer)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model_card(base_model: str, revision: str, sha256: str) -> str:
    return f"""---
base_model: {json.dumps(base_model)}
library_name: transformers
tags: [attune]
---
# {base_model}, fine-tuned

Every weight of `{base_model}` at revision `{revision}` was trained with Attune. The prompt format that it was trained
with is frozen in `attune.json`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```

sha256 of `{WEIGHTS}`: `{sha256}`
"""
