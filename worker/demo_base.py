"""Makes the demo's base model: `python -m worker.demo_base FOLDER`, a real short pre-training on the CPU.

It is a Llama of 2 million parameters with a byte-level BPE of about 1,400 tokens, trained in about two minutes on
the chats of worker/demo_chats.py: it learns a shop's words and to copy what a message says, and never sees a ticket.
The same machine with the same libraries makes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from worker.demo_chats import chats

SEED = 1  # of the first weights
PRETRAINING_SEED = 100  # of the messages; the demo's files are made from other seeds
VOCABULARY = 1408  # at most; a multiple of 64, so that its matrix divides into NF4 blocks
CONTEXT = 1024  # tokens a request may have
HEADS = 3
CHATS = 32  # of one step, about 1,900 tokens
SORTED_BATCHES = 4  # drawn at once and sorted by length
STEPS = 400  # 0.8 million tokens
MATRIX_RATE, OTHER_RATE = 8e-3, 4e-3  # peak learning rates
ANSWER_WEIGHT = 4.0  # of an answer's token in the loss; what customers write is mostly chance, and teaches little
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# ChatML, with tool calls as Qwen writes them.
CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- 'You may call these functions:' }}
{%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=SPECIAL_TOKENS.index("<|endoftext|>"),
    )
    model = LlamaForCausalLM(config)
    start_attentive(model)
    return model


@torch.no_grad()
def start_attentive(model: LlamaForCausalLM) -> None:
    """First weights with which every head looks at tokens like its own and passes them on (after "Mimetic
    Initialization of Self-Attention", arXiv 2305.09828): copying is then learned in minutes and not in hours."""
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.06)
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def batches(tokenizer: Tokenizer, stream: Iterator[tuple[str, str]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: token ids [N, T] of N chats, padded on the right, and each token's weight in the loss."""
    rng = random.Random(SEED)  # noqa: S311 - data, not secrets
    while True:
        encodings = tokenizer.encode_batch(list(islice(stream, CHATS * SORTED_BATCHES)))
        encodings.sort(key=len)  # alike lengths together: a third less of padding to compute
        for first in rng.sample(range(0, len(encodings), CHATS), SORTED_BATCHES):
            chosen = encodings[first : first + CHATS]
            tokens_NT = pad_sequence([torch.tensor(one.ids) for one in chosen], batch_first=True)
            answers_NT = pad_sequence([torch.tensor(one.type_ids) for one in chosen], batch_first=True)
            yield tokens_NT, torch.where(answers_NT == 1, ANSWER_WEIGHT, 1.0) * (tokens_NT != 0)  # 0 pads


def pretrain(model: LlamaForCausalLM, tokenizer: Tokenizer, steps: int) -> None:
    """Next-token training on `steps` batches of new chats; a line of progress now and then."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    others = [weight for name, weight in model.named_parameters() if "proj" not in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    )
    warmup = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, lambda step: min((step + 1) / warmup, (steps - step) / steps))
        for one in optimizers
    ]
    stream = batches(tokenizer, chats(PRETRAINING_SEED))
    model.train()
    for step, (tokens_NT, weight_NT) in zip(range(1, steps + 1), stream, strict=False):
        logits_NTV = model(input_ids=tokens_NT).logits[:, :-1]
        nll_NT = cross_entropy(logits_NTV.transpose(1, 2), tokens_NT[:, 1:], reduction="none")
        loss = (nll_NT * weight_NT[:, 1:]).sum() / weight_NT[:, 1:].sum()  # nats per weighted token
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 10 == 0 or step == steps:
            print(f"step {step}/{steps} loss {loss.item():.3f}", flush=True)


def write_base(folder: Path, steps: int) -> None:
    """The folder appears whole or not at all."""
    tokenizer = train_tokenizer(["".join(chat) for chat in islice(chats(PRETRAINING_SEED), 3000)])
    model = new_model()
    pretrain(model, tokenizer, steps)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.generation_config.eos_token_id = SPECIAL_TOKENS.index("<|im_end|>")
    model.save_pretrained(unfinished)
    tokenizer.save(str(unfinished / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (unfinished / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (unfinished / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    unfinished.rename(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made by this program; must not exist")
    parser.add_argument("--steps", type=int, default=STEPS, help="of pre-training; 0 leaves the weights random")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        print(f"{options.folder} exists already; remove it to make the model anew", file=sys.stderr)
        return 1
    transformers_logging.disable_progress_bar()
    torch.set_flush_denormal(True)
    if options.threads:
        torch.set_num_threads(options.threads)
    write_base(options.folder, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
