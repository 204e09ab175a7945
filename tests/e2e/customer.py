"""A customer's program: fine-tunes through LiteLLM, then asks the new model through LiteLLM and LangChain.

It knows the service's address and key by OpenAI's own environment variables, and nothing of Attune but that
training here may be given a LoRA rank. `make test-clients` runs it in an environment that has neither torch nor us.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import litellm
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

PLACE: Any = {
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
    "custom_llm_provider": "openai",
}
litellm.suppress_debug_info = True
ANSWERS = ("the customer asks", "send it to Berlin", "three blue shirts", "today")


def training_file(folder: Path) -> Path:
    path = folder / "training.jsonl"
    with path.open("w") as file:
        for number in range(64):
            asked = {"role": "user", "content": f"order {number}?"}
            answer = {"role": "assistant", "content": ANSWERS[number % len(ANSWERS)]}
            file.write(json.dumps({"messages": [asked, answer]}) + "\n")
    return path


def fine_tune(base: str) -> str:
    """The name of a model that LiteLLM has had trained here."""
    with tempfile.TemporaryDirectory() as folder, training_file(Path(folder)).open("rb") as content:
        file = litellm.create_file(file=content, purpose="fine-tune", **PLACE)
    job: Any = litellm.create_fine_tuning_job(
        model=base,
        training_file=file.id,
        suffix="customer",
        hyperparameters={"n_epochs": 3, "batch_size": 8},
        extra_body={"attune": {"lora": {"rank": 4}}},
        **PLACE,
    )
    print(f"{job.id} {job.status}")
    deadline = time.monotonic() + 120
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, f"{job.id} is still {job.status}"
        time.sleep(0.5)
        job = litellm.retrieve_fine_tuning_job(job.id, **PLACE)
    assert job.status == "succeeded", job.error
    listed: Any = litellm.list_fine_tuning_jobs(limit=5, **PLACE)
    assert job.id in [each.id for each in listed.data]
    return job.fine_tuned_model


async def change_ones_mind(base: str) -> None:
    """The same calls as coroutines: a job is made, and called off."""
    with tempfile.TemporaryDirectory() as folder, training_file(Path(folder)).open("rb") as content:
        file = await litellm.acreate_file(file=content, purpose="fine-tune", **PLACE)
    job: Any = await litellm.acreate_fine_tuning_job(model=base, training_file=file.id, **PLACE)
    cancelled: Any = await litellm.acancel_fine_tuning_job(job.id, **PLACE)
    assert cancelled.status in ("cancelled", "running"), cancelled.status
    assert (await litellm.afile_retrieve(file.id, **PLACE)).status == "processed"


def ask_by_litellm(model: str) -> str:
    messages = [{"role": "user", "content": "order 5?"}]
    options: Any = {"model": f"openai/{model}", "messages": messages, "max_tokens": 8, "temperature": 0}
    place = {name: PLACE[name] for name in ("api_base", "api_key")}
    whole: Any = litellm.completion(**options, **place)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    pieces: Any = litellm.completion(**options, **place, stream=True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert streamed == whole.choices[0].message.content
    return streamed


def ask_by_langchain(model: str) -> str:
    chat = ChatOpenAI(model=model, max_tokens=8, temperature=0)  # address and key: from the environment
    answer = chat.invoke([HumanMessage("order 5?")])
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(str(piece.content) for piece in chat.stream([HumanMessage("order 5?")])) == answer.content
    several = chat.batch([[HumanMessage("order 5?")], [SystemMessage("Be brief."), HumanMessage("order 6?")]])
    assert several[0].content == answer.content
    schema = {"title": "rank", "type": "object", "properties": {"rank": {"enum": list(range(10))}},
              "required": ["rank"], "additionalProperties": False}  # fmt: skip
    ranked: Any = ChatOpenAI(model=model, max_tokens=200, temperature=1.5, seed=1).with_structured_output(
        schema, method="json_schema", strict=True
    )
    assert ranked.invoke("order 5?")["rank"] in range(10)
    return str(answer.content)


def main(base: str) -> None:
    model = fine_tune(base)
    asyncio.run(change_ones_mind(base))
    one, other = ask_by_litellm(model), ask_by_langchain(model)
    assert one == other, (one, other)
    print(f"{model} says: {one}")


if __name__ == "__main__":
    main(sys.argv[1])
