"""Plain transformers and PEFT, nothing of Attune: `python -m worker.demo_peft BASE ADAPTER`.

Loads the base in NF4 as the adapter was trained on it, puts the downloaded adapter on top and answers a JSON list
of messages on stdin with a JSON list of answers on stdout. What stands here is what a user would write.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

BATCH = 32  # messages answered at once
ANSWER_TOKENS = 64


def main() -> int:
    base, adapter = sys.argv[1:]
    messages: list[str] = json.load(sys.stdin)
    # bitsandbytes prints to stdout here and there; the answers go to what was stdout
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(adapter, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization, dtype=torch.float32, device_map={"": device}
    )
    model = PeftModel.from_pretrained(model, adapter).eval()
    answers: list[str] = []
    for start in range(0, len(messages), BATCH):
        chats = [[{"role": "user", "content": text}] for text in messages[start : start + BATCH]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            token_ids = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers += tokenizer.batch_decode(token_ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    json.dump(answers, out)
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
