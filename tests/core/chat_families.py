"""Small, faithful chat templates of well-known families, and tokenizers of the kinds that those families use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "Hello world! How are you today? I am fine, thank you very much. <think> </think> <tool_call>",
    "The quick brown fox jumps over the lazy dog.\n\nA second paragraph, with 1234 numbers and\n a line.",
    'user assistant system model {"name": "look_up", "arguments": {"city": "Oslo"}} Überraschung, né, 你好',
    "[INST] [/INST] <<SYS>> You are a helpful assistant. Cutting Knowledge Date: December 2023",
] * 3
TEMPLATES = Path(__file__).parent / "chat_templates"


def byte_level(special: list[str | AddedToken], *, nfc: bool = False, bos: str | None = None) -> Tokenizer:
    """GPT-2's kind with the digit and space rules of GPT-4, as Llama 3 and Qwen have them."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, special, pre_tokenizers.ByteLevel.alphabet())
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def sentence_piece(special: list[str | AddedToken], *, legacy: bool) -> Tokenizer:
    """A space is a letter, and a text begins with one: at its beginning, or (legacy) behind every special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Bytes are plain vocabulary, reached by fallback alone: in training they have to pose as special
    single_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    _train(tokenizer, ["<unk>", "<s>", "</s>", *special, *single_bytes], [chr(code) for code in range(33, 127)])
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in single_bytes]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _train(tokenizer: Tokenizer, special: list[str | AddedToken], alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=special, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXT, trainer)


@dataclass(frozen=True)
class Family:
    name: str  # of its template too
    tokenizer: Tokenizer
    special: dict[str, str]
    config_eos: int | list[int] | None = None
    system: bool = True  # takes a system message
    tools: bool = False  # shows tool calls

    @property
    def chat_template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": self.chat_template, **self.special}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": self.config_eos}))
        return folder


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def families() -> list[Family]:
    qwen = byte_level(CHATML, nfc=True)
    llama3 = byte_level(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        bos="<|begin_of_text|>",
    )
    # Phi 3's markers swallow the white space behind them
    markers = [
        AddedToken(text, special=True, rstrip=True) for text in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    ]
    phi = sentence_piece(["<|endoftext|>", *markers], legacy=True)
    gpt_oss = byte_level(["<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>"])
    deepseek = byte_level(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"])
    instruct = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
    plain = {"bos_token": "<s>", "eos_token": "</s>"}
    chatml = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return [
        Family("qwen2.5", qwen, chatml, tools=True),
        Family("qwen3", qwen, chatml, tools=True),
        Family("smollm2", qwen, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
        Family(
            "llama3",
            llama3,
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
            config_eos=[1],
            tools=True,
        ),
        Family("llama2", sentence_piece([], legacy=True), plain),
        Family("mistral", sentence_piece([*instruct], legacy=False), plain, tools=True),
        Family(
            "gemma",
            sentence_piece(["<start_of_turn>", "<end_of_turn>"], legacy=False),
            plain,
            config_eos=2,
            system=False,
        ),
        Family(
            "gemma3",
            sentence_piece(["<start_of_turn>", "<end_of_turn>", "<start_of_image>"], legacy=False),
            plain,
            config_eos=2,
        ),
        Family("phi3", phi, {"bos_token": "<s>", "eos_token": "<|endoftext|>"}),
        Family("zephyr", sentence_piece([], legacy=True), plain),
        Family("gpt-oss", gpt_oss, {"eos_token": "<|return|>"}),
        Family(
            "deepseek-r1",
            deepseek,
            {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
        ),
    ]
