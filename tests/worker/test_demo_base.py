"""The demo's base: made whole, the same bytes each time, and readable by all that reads a base."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from core.rendering.render import Renderer
from worker import demo_base, demo_chats

FILES = (
    *("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "attune-demo"
    demo_base.write_base(folder, 1)
    return folder


def test_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    demo_base.write_base(tmp_path / "again", 1)
    assert hashes(folder) == hashes(tmp_path / "again")
    assert tuple(hashes(folder)) == FILES
    assert not list(folder.parent.glob("*.unfinished"))


def test_the_renderer_reads_it_and_marks_the_answer(folder: Path) -> None:
    renderer = Renderer.from_folder(folder, "2026-01-01")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my kettle?"}]
    prompt = renderer.decode(renderer.render_prompt(messages), skip_special=False)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is my kettle?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert len(renderer.encode("<|im_end|>", special=True)) == 1
    config = json.loads((folder / "config.json").read_text())
    assert renderer.vocab_size <= config["vocab_size"]


def test_no_answer_of_pre_training_has_a_key_of_a_ticket() -> None:
    for (_, answer), _ in zip(demo_chats.chats(1), range(500), strict=False):
        if answer.startswith("{"):
            keys = set(json.loads(answer.removesuffix("<|im_end|>\n")))
            assert keys
            assert not keys & {"product", "problem", "wants", "city"}


def test_a_folder_that_stands_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(folder)
    assert demo_base.main([str(folder), "--steps", "0"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert hashes(folder) == before
