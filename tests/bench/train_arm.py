"""One trainer of `make bench-train` or `make bench-gpu`, in a process of its own, training as many steps as told.

Reads a number of steps on stdin and answers with a line of JSON when they are done; it stands still in between, so
that several trainers can take turns. All have the same NF4 base, tokens, order, first LoRA weights and AdamW.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from pydantic import BaseModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, TrainerCallback

from core.protocol import Step, TrainTask, WorkFolder
from core.rendering.render import Renderer
from worker.engine.data import Batches, tokenise
from worker.engine.execution import choose_precision
from worker.engine.optimizer import BETAS, learning_rate
from worker.engine.pack import Segment
from worker.engine.resident import Resident
from worker.engine.train import train

CPU = torch.device("cpu")
LIKE_LENGTHS = 4  # examples that the reference pads to one length


class Pace:
    """Waits for an order before a step, and answers after the last step of it."""

    def __init__(self, answers: int, on_gpu: bool) -> None:
        self.losses: list[float] = []
        self._answers = answers  # descriptor
        self._left = 0
        self._begun = self._begun_cpu = 0.0
        self._on_gpu = on_gpu
        self._idle_bytes = 0 if on_gpu else psutil.Process().memory_info().rss
        if not on_gpu:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    def before_step(self) -> None:
        """Ends the process when no order comes any more."""
        if self._left == 0:
            order = sys.stdin.readline()
            if not order:
                os._exit(0)
            self._left = int(order)
            self._begun, self._begun_cpu = time.perf_counter(), time.process_time()

    def after_step(self) -> None:
        self._left -= 1
        if self._left == 0:
            if self._on_gpu:
                torch.cuda.synchronize()
            peak = torch.cuda.max_memory_reserved() if self._on_gpu else _peak_bytes()
            answer = {
                "seconds": time.perf_counter() - self._begun,
                "cpu_seconds": time.process_time() - self._begun_cpu,
                "peak_bytes": peak - self._idle_bytes,
                "losses": self.losses,
            }
            os.write(self._answers, (json.dumps(answer) + "\n").encode())


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def ours(task: TrainTask, folder: WorkFolder, pace: Pace) -> None:
    """The engine with what it chooses itself."""

    def report(item: BaseModel) -> None:
        if isinstance(item, Step):
            pace.losses.append(item.train_loss)
            pace.after_step()
        pace.before_step()

    train(Resident(), folder, report, threading.Event(), torch.get_num_threads())


def _steps(task: TrainTask, folder: WorkFolder) -> list[list[Segment]]:
    """What each optimizer step of the engine trains on."""
    renderer = Renderer.from_folder(Path(task.base_folder), task.template_date)
    data = tokenise(folder.training, renderer, task.resolved.max_example_tokens)
    batches = Batches(len(data), task.resolved.batch_size, task.seed)
    numbers = range(1, task.resolved.total_steps + 1)
    return [[segment for i in batches.of_step(number) for segment in data.segments(i)] for number in numbers]


def _labels(segment: Segment) -> list[int]:
    return [int(token) if on else -100 for token, on in zip(segment.token_ids, segment.mask, strict=True)]


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _begin_alike(model: nn.Module, seed: int) -> None:
    """Give PEFT's A the numbers that the engine draws."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(drawn)


def trl(
    task: TrainTask,
    folder: WorkFolder,
    pace: Pace,
    options: dict[str, object],
    dtype: str | None,
    accumulation: int = 1,
    model: nn.Module | None = None,
) -> None:
    """TRL's SFTTrainer over PEFT and bitsandbytes; `options` and `dtype` differ from its defaults. `model`: one that
    has its adapter already."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    class Paced(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            pace.before_step()

        def on_step_end(self, *_: object, **__: object) -> None:
            pace.after_step()

        def on_log(self, *_: object, logs: dict[str, object], **__: object) -> None:
            if "loss" in logs:
                pace.losses.append(float(str(logs["loss"])))

    resolved, lora = task.resolved, task.resolved.lora
    rows = [segment for step in _steps(task, folder) for segment in step]
    data = {"input_ids": [row.token_ids.tolist() for row in rows], "labels": [_labels(row) for row in rows]}
    on_cpu = task.device == "cpu"
    loading: dict[str, object] = {"quantization_config": _nf4(torch.bfloat16), "device_map": {"": task.device}}
    arguments = SFTConfig(
        output_dir=str(folder.root / "trl"),
        model_init_kwargs=None if model else loading if dtype is None else loading | {"dtype": dtype},
        use_cpu=on_cpu,
        per_device_train_batch_size=resolved.batch_size // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=resolved.learning_rate,
        max_steps=resolved.total_steps,
        train_sampling_strategy="sequential",
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    peft_config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank * lora.scale,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model=model or task.base_folder,
        args=arguments,
        train_dataset=Dataset.from_dict(data),
        processing_class=AutoTokenizer.from_pretrained(task.base_folder),
        peft_config=None if model else peft_config,
        callbacks=[Paced()],
    )
    _begin_alike(trainer.model, task.seed)
    trainer.train()
    pace.before_step()


def trl_best(task: TrainTask, folder: WorkFolder, pace: Pace) -> None:
    """The fastest settings found whose loss is right on a CPU: the base in the type the CPU multiplies in, without
    autocast and without checkpointing, and the step's examples in one row behind a block-diagonal mask.

    That mask costs a row of one example its causal kernel, so such steps go without.
    """
    options: dict[str, object] = {"bf16": False, "gradient_checkpointing": False}
    trl(task, folder, pace, options | {"padding_free": task.resolved.batch_size > 1}, choose_precision(CPU))


def reference(task: TrainTask, folder: WorkFolder, pace: Pace) -> None:
    """Padded rows through transformers and PEFT by the book: whole logits, float32 adapters, torch's AdamW."""
    from peft import LoraConfig, get_peft_model

    resolved, lora = task.resolved, task.resolved.lora
    dtype = getattr(torch, choose_precision(CPU))
    base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        task.base_folder, dtype=dtype, quantization_config=_nf4(dtype), device_map={"": "cpu"}
    )
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.rank * lora.scale, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config).train()
    _begin_alike(model, task.seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=BETAS, weight_decay=resolved.weight_decay)
    for number, segments in enumerate(_steps(task, folder), start=1):
        pace.before_step()
        supervised = sum(int(segment.mask.sum()) for segment in segments)
        by_length = sorted(segments, key=lambda segment: len(segment.token_ids))
        loss = 0.0
        for start in range(0, len(by_length), LIKE_LENGTHS):
            rows = by_length[start : start + LIKE_LENGTHS]
            longest = len(rows[-1].token_ids)
            gaps = [longest - len(row.token_ids) for row in rows]
            labels = torch.tensor([_labels(row) + [-100] * gap for row, gap in zip(rows, gaps, strict=True)])
            ids = torch.tensor([row.token_ids.tolist() + [0] * gap for row, gap in zip(rows, gaps, strict=True)])
            mask = torch.tensor([[1] * (longest - gap) + [0] * gap for gap in gaps])
            part = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=supervised).loss
            part.backward()
            loss += float(part)
        torch.nn.utils.clip_grad_norm_(trained, resolved.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, resolved)
        optimizer.step()
        optimizer.zero_grad()
        pace.losses.append(loss)
        pace.after_step()
    pace.before_step()


def trl_gpu(task: TrainTask, folder: WorkFolder, pace: Pace, options: dict[str, object]) -> None:
    """TRL on a GPU: bfloat16, rows padded alike, as many in a micro-step as hold MICRO_TOKENS."""
    examples = max(1, min(task.resolved.batch_size, MICRO_TOKENS // task.resolved.max_example_tokens))
    accumulation = -(-task.resolved.batch_size // examples)
    trl(task, folder, pace, {"bf16": True} | options, "bfloat16", accumulation)


def unsloth(task: TrainTask, folder: WorkFolder, pace: Pace) -> None:
    """TRL with the model and the adapter that Unsloth makes, and its own checkpointing."""
    from unsloth import FastLanguageModel

    lora = task.resolved.lora
    base, _ = FastLanguageModel.from_pretrained(
        task.base_folder, max_seq_length=task.resolved.max_example_tokens, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        base,
        r=lora.rank,
        lora_alpha=int(lora.rank * lora.scale),
        lora_dropout=0,
        target_modules=UNSLOTH_TARGETS,
        use_gradient_checkpointing="unsloth",
    )
    examples = max(1, min(task.resolved.batch_size, MICRO_TOKENS // task.resolved.max_example_tokens))
    trl(task, folder, pace, {"bf16": True}, None, -(-task.resolved.batch_size // examples), model)


MICRO_TOKENS = 8192  # of a peer's micro-step on a GPU
UNSLOTH_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NO_CHECKPOINTS: dict[str, object] = {"gradient_checkpointing": False}
LIGER: dict[str, object] = {"use_liger_kernel": True}
ARMS: dict[str, Callable[[TrainTask, WorkFolder, Pace], None]] = {
    "ours": ours,
    "reference": reference,
    "trl-default": lambda task, folder, pace: trl(task, folder, pace, {}, None),
    "trl-best": trl_best,
    "trl-gpu": lambda task, folder, pace: trl_gpu(task, folder, pace, NO_CHECKPOINTS),
    "trl-gpu-checkpoints": lambda task, folder, pace: trl_gpu(task, folder, pace, {}),
    "trl-gpu-liger": lambda task, folder, pace: trl_gpu(task, folder, pace, NO_CHECKPOINTS | LIGER),
    "unsloth": unsloth,
}


def main() -> None:
    arm, root, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = os.dup(1)
    os.dup2(2, 1)  # what the libraries print is no answer
    torch.set_num_threads(threads)
    folder = WorkFolder(root)
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    if arm.startswith("trl"):
        import trl as _  # idle memory is with the libraries loaded, for every arm
    if arm.startswith("unsloth"):
        import unsloth as _  # noqa: F401  # it patches TRL, so it comes first
    ARMS[arm](task, folder, Pace(answers, task.device != "cpu"))


if __name__ == "__main__":
    main()
