"""What the trainers of `make bench-train` are given: a random Llama of a size, and examples of a length profile.

Every word of the examples is one token of the base's own BPE vocabulary, so that a length is exact.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATE_PARTS = ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n")
SEED = 5
MOST_WORDS = 32768  # that a tokenizer is trained on; a larger embedding has rows that no text uses


@dataclass(frozen=True)
class Size:
    """A Llama's shape."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def linear_parameters(self) -> int:
        """Of all linears but the output head."""
        attention = self.hidden * self.hidden * 2 + 2 * self.hidden * (self.hidden // self.heads) * self.kv_heads
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


def small(layers: int, hidden: int, vocabulary: int) -> Size:
    """Heads 64 wide, half as many for keys and values, and Llama 2's proportions."""
    intermediate = -(-hidden * 8 // 3 // 64) * 64
    return Size(f"{layers}x{hidden}", layers, hidden, intermediate, hidden // 64, hidden // 128, vocabulary)


@dataclass(frozen=True)
class Profile:
    """Lengths in tokens: log-normal around `mean`, or all `mean` where the spread is 0."""

    name: str
    mean: int
    spread: float  # of the logarithm
    most: int
    supervised: float  # share of the tokens
    examples_per_step: int

    def lengths(self, count: int) -> list[int]:
        generator = random.Random(SEED)
        centre = torch.tensor(self.mean).log().item() - self.spread**2 / 2  # so that the mean is the mean
        drawn = (round(generator.lognormvariate(centre, self.spread)) for _ in range(count))
        return [min(max(length, 32), self.most) for length in drawn]


def _words(generator: random.Random, count: int) -> list[str]:
    syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(syllables, k=generator.randint(2, 4)))] = None
    return list(found)


@dataclass(frozen=True)
class Vocabulary:
    words: list[str]  # each one token where it stands behind a blank; most frequent first
    template_tokens: int  # that the chat template puts around a question and an answer


def write_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A BPE over bytes that is trained on `texts`, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def make_base(folder: Path, size: Size, device: str = "cpu") -> Vocabulary:
    """Write a base with seeded random weights, drawn on `device`: in bfloat16 on a GPU, in float32 on the CPU."""
    folder.mkdir(parents=True)
    generator = random.Random(SEED)
    known = min(size.vocabulary, MOST_WORDS)
    words = _words(generator, known)
    tokenizer = write_tokenizer(folder, (f" {word}" for word in words for _ in range(2)), known)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=size.tied,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    if device != "cpu":
        torch.cuda.empty_cache()  # the trainers are other processes
    encoded = tokenizer.encode_batch([f" {word}" for word in words])
    return Vocabulary(
        words=[word for word, each in zip(words, encoded, strict=True) if len(each.ids) == 1],
        template_tokens=sum(len(tokenizer.encode(part).ids) for part in TEMPLATE_PARTS),
    )


def conversations(vocabulary: Vocabulary, profile: Profile, count: int) -> Iterator[str]:
    """`count` lines of JSONL with a question and an answer each."""
    generator = random.Random(SEED + 1)
    weights = [1.0 / (rank + 1) for rank in range(len(vocabulary.words))]  # Zipf: there is something to learn
    for length in profile.lengths(count):
        content = generator.choices(vocabulary.words, weights, k=length - vocabulary.template_tokens)
        answer = max(1, round(length * profile.supervised))
        ask = max(1, len(content) - answer)
        yield json.dumps(
            {
                "messages": [
                    {"role": "user", "content": " " + " ".join(content[:ask])},
                    {"role": "assistant", "content": " " + " ".join(content[ask:])},
                ]
            }
        )
