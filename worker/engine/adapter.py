"""The adapter as a folder in PEFT's format, with the frozen template and a manifest beside it.

Equal runs give equal files: names are sorted, floats are the run's own, and no date stands anywhere. PEFT reads
adapter_config.json and adapter_model.safetensors; attune.json is ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from core.errors import AttuneError
from core.rendering.render import Template
from core.spec import LoraSettings
from worker.engine.lora import DEFAULT, LoraModules
from worker.engine.publish import published, write_bytes

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "attune.json"
TOKENIZER = "tokenizer.json"

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


class PeftConfig(BaseModel):
    """What adapter_config.json must say for us to load it; PEFT's many other switches must be off."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(ge=0, lt=1, default=0.0)
    target_modules: list[str] | str | None = None
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None

    @property
    def settings(self) -> LoraSettings:
        scale = self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)
        targets = self.target_modules if isinstance(self.target_modules, list) else "all-linear"
        return LoraSettings(
            rank=self.r,
            scale=scale,
            dropout=self.lora_dropout,
            rslora=self.use_rslora,
            target_modules=tuple(targets) if targets != "all-linear" else "all-linear",
        )


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter read back from its folder."""

    folder: Path
    config: PeftConfig
    settings: LoraSettings
    tensors: dict[str, Tensor]  # by PEFT's names
    sha256: str  # of adapter_model.safetensors
    manifest: dict[str, JsonValue]  # attune.json; empty for a foreign adapter
    template: Template | None  # None for a foreign adapter
    tokenizer_json: Path | None


def write_adapter(
    folder: Path,
    modules: LoraModules,
    *,
    base_model: str,
    revision: str,
    lora: LoraSettings,
    template: Template,
    tokenizer_json: bytes,
    manifest: Mapping[str, JsonValue],
    name: str = DEFAULT,
) -> str:
    """Publish adapter `name` of `modules` as `folder`; fsynced, and all or nothing. Returns the hash of its
    weights. `manifest` comes on top of what is written of itself: base, lora, template, weights' hash."""
    weights = save({key: value.cpu() for key, value in modules.weights(name).items()}, {"format": "pt"})
    sha256 = hashlib.sha256(weights).hexdigest()
    config = _peft_config(base_model, revision, lora, modules.target_modules(name))
    whole: dict[str, JsonValue] = {
        **manifest,
        "format": 1,
        "base_model": base_model,
        "base_revision": revision,
        "adapter_sha256": sha256,
        "lora": lora.model_dump(mode="json"),
        "template": json.loads(template.to_json()),
        "template_hash": template.hash,
    }
    with published(folder) as partial:
        write_bytes(partial / WEIGHTS, weights)
        write_bytes(partial / CONFIG, json_bytes(config))
        write_bytes(partial / TOKENIZER, tokenizer_json)
        write_bytes(partial / "tokenizer_config.json", json_bytes(_tokenizer_config(template)))
        if template.chat_template is not None:
            write_bytes(partial / "chat_template.jinja", template.chat_template.encode())
        write_bytes(partial / "README.md", _model_card(base_model, revision, lora, sha256).encode())
        write_bytes(partial / MANIFEST, json_bytes(whole))
    return sha256


def read_adapter(folder: Path) -> StoredAdapter:
    """Read a PEFT LoRA folder, ours or a foreign one. Raises AttuneError with code adapter_unreadable."""
    try:
        config = PeftConfig.model_validate_json((folder / CONFIG).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
        tensors = load(weights)
        manifest_path = folder / MANIFEST
        manifest = json.loads(manifest_path.read_bytes()) if manifest_path.exists() else {}
        template = Template.from_json(json.dumps(manifest["template"])) if "template" in manifest else None
    except (OSError, SafetensorError, ValidationError, ValueError, KeyError, TypeError, AttuneError) as error:
        raise AttuneError(
            f"the adapter cannot be read: {type(error).__name__}: {error}", code="adapter_unreadable", param="model"
        ) from error
    _refuse_what_is_no_plain_lora(config)
    tokenizer = folder / TOKENIZER
    return StoredAdapter(
        folder=folder,
        config=config,
        settings=config.settings,
        tensors=tensors,
        sha256=hashlib.sha256(weights).hexdigest(),
        manifest=manifest,
        template=template,
        tokenizer_json=tokenizer if tokenizer.exists() else None,
    )


def _refuse_what_is_no_plain_lora(config: PeftConfig) -> None:
    switches = {
        f"peft_type {config.peft_type}": config.peft_type != "LORA",
        f"bias {config.bias}": config.bias != "none",
        "use_dora": config.use_dora,
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": bool(config.modules_to_save),
        "rank_pattern": bool(config.rank_pattern),
        "alpha_pattern": bool(config.alpha_pattern),
    }
    present = [name for name, is_on in switches.items() if is_on]
    if present:
        raise AttuneError(
            f"the adapter uses {', '.join(present)}; only plain LoRA is supported",
            code="adapter_unreadable",
            param="model",
        )


def _peft_config(base_model: str, revision: str, lora: LoraSettings, target_modules: list[str]) -> dict[str, JsonValue]:
    # PEFT divides alpha by r, or its square root; undo the float noise of the product, since 16.000000000000004 helps
    # nobody
    alpha = round(lora.scale * (math.sqrt(lora.rank) if lora.rslora else lora.rank), 9)
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": revision,
        "target_modules": list(target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": lora.rslora,
    }


def _tokenizer_config(template: Template) -> dict[str, JsonValue]:
    """Enough for transformers to load tokenizer.json as the tokenizer; the template has its own file."""
    return {
        **template.special_tokens,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def json_bytes(value: Mapping[str, JsonValue]) -> bytes:
    """As every JSON file beside weights is written: sorted, so that equal runs are equal files."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _model_card(base_model: str, revision: str, lora: LoraSettings, sha256: str) -> str:
    return f"""---
base_model: {json.dumps(base_model)}
library_name: peft
tags: [lora, attune]
---
# LoRA adapter for {base_model}

Trained with Attune on `{base_model}` at revision `{revision}`: rank {lora.rank}, scale {lora.scale:g},
dropout {lora.dropout:g}. The prompt format that it was trained with is frozen in `attune.json` and
`chat_template.jinja`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({json.dumps(base_model)})
model = PeftModel.from_pretrained(base, "path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```

sha256 of `{WEIGHTS}`: `{sha256}`
"""
