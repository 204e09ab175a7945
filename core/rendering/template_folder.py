"""Freezes what a base model's folder says about its tokenizer and chat template, with what probing it adds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Tokenizer

from core.data.jsonl import Json
from core.errors import AttuneError
from core.rendering.chat_template import Template, TextRenderer
from core.rendering.template_probe import probe_turn

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Frozen:
    tokenizer_json: bytes
    tokenizer: Tokenizer
    template: Template


def freeze(folder: Path, date: str) -> Frozen:
    """Of a folder with tokenizer.json, tokenizer_config.json, config.json and what else there is; `date` is
    YYYY-MM-DD. Raises `AttuneError` (invalid_base_model, template_refused)."""
    if not (folder / "tokenizer.json").is_file():
        raise AttuneError(
            "the base model has no tokenizer.json; choose one in today's Hugging Face format, or convert its tokenizer",
            code="invalid_base_model",
            param="model",
        )
    tokenizer_json = (folder / "tokenizer.json").read_bytes()
    special_tokens = _special_tokens(folder)
    tokenizer = load_tokenizer(tokenizer_json, special_tokens)
    chat_template, tool_template = _sources(folder)
    bos, eos = (tokenizer.token_to_id(special_tokens.get(name, "")) for name in ("bos_token", "eos_token"))
    stop_ids = _configured_stops(folder) | ({eos} if eos is not None else set())
    template = Template(
        chat_template=chat_template,
        tool_template=tool_template,
        special_tokens=special_tokens,
        stop_ids=tuple(sorted(stop_ids)),
        date=date,
        tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
        # By tokenizer.json alone: transformers does not heed add_bos_token where there is one
        adds_bos=bos is not None and tokenizer.encode("a").ids[:1] == [bos],
    )
    if chat_template is not None:
        template = _probed(template, tokenizer)
    return Frozen(tokenizer_json, tokenizer, template)


def load_tokenizer(tokenizer_json: bytes, special_tokens: dict[str, str]) -> Tokenizer:
    """The tokenizer without truncation or padding. Named special tokens are special even where
    tokenizer.json forgot it, as in transformers; none is added that the vocabulary lacks."""
    tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    missing = [
        text for text in special_tokens.values() if text not in known and tokenizer.token_to_id(text) is not None
    ]
    if missing:
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])
    return tokenizer


def _configured_stops(folder: Path) -> set[int]:
    """Every eos_token_id that the model's configuration names."""
    config = _json(folder / "config.json")
    inner = config.get("text_config")
    stops: set[int] = set()
    for part in (config, inner if isinstance(inner, dict) else {}, _json(folder / "generation_config.json")):
        value = part.get("eos_token_id")
        numbers = value if isinstance(value, list) else [value]
        stops |= {number for number in numbers if isinstance(number, int)}
    return stops


def _probed(template: Template, tokenizer: Tokenizer) -> Template:
    """The template with the end-of-turn token among its stops, and without a thought forced open."""
    probe = probe_turn(TextRenderer(template))
    if probe is None:
        return template
    behind = probe.behind_answer.lstrip()
    added = tokenizer.get_added_tokens_decoder()
    ends = [(len(token.content), number) for number, token in added.items() if behind.startswith(token.content)]
    stops = {*template.stop_ids, max(ends)[1]} if ends else {*template.stop_ids}
    return replace(template, stop_ids=tuple(sorted(stops)), dropped_prompt_end=probe.forced_think)


def _sources(folder: Path) -> tuple[str | None, str | None]:
    """(chat template, template for tools) of a model folder. Files win over tokenizer_config.json."""
    named: dict[str, str] = {}
    config = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(config, str):
        named["default"] = config
    elif isinstance(config, list):
        for entry in config:
            if isinstance(entry, dict):
                named[str(entry.get("name"))] = str(entry.get("template"))
    processor = _json(folder / "chat_template.json").get("chat_template")
    if isinstance(processor, str):
        named["default"] = processor
    if (folder / "chat_template.jinja").is_file():
        named["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for path in (folder / "additional_chat_templates").glob("*.jinja"):
        named[path.stem] = path.read_text(encoding="utf-8")
    return named.get("default"), named.get("tool_use")


def _special_tokens(folder: Path) -> dict[str, str]:
    """Name to text of the special tokens that a model folder names."""
    tokens: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        config = _json(folder / file)
        for name in _SPECIAL_NAMES:
            value = config.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def _json(path: Path) -> dict[str, Json]:
    """A model folder's JSON object; empty when the file is not there."""
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise AttuneError(f"{path.name} of the base model is no JSON object", code="invalid_base_model", param="model")
    return cast("dict[str, Json]", value)
