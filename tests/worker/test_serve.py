"""The server as a client meets it: a real base and adapter, a real database and storage, the openai package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from core.models import Model
from core.serving import servers
from tests.worker.serving import ANSWER, ASK, CHECKPOINT, QUESTION, TUNED, Place, ask, eventually, make_place, schema
from tests.worker.trained import TrainedJob

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


def test_base_model_and_checkpoint_answer(client: OpenAI) -> None:
    tuned = ask(client)
    choice = tuned.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert tuned.object == "chat.completion"
    assert tuned.id.startswith("chatcmpl-")
    assert tuned.model == TUNED
    assert abs(tuned.created - time.time()) < 60
    assert tuned.usage is not None
    assert tuned.usage.total_tokens == tuned.usage.prompt_tokens + tuned.usage.completion_tokens
    assert ask(client, CHECKPOINT).choices[0].message.content == ANSWER
    base = ask(client, "tiny")
    assert base.choices[0].message.content != ANSWER
    assert base.system_fingerprint != tuned.system_fingerprint


def test_the_stream_says_what_the_whole_answer_says(place: Place, client: OpenAI) -> None:
    body = {
        "model": TUNED,
        "messages": ASK,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with place.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == ANSWER
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    whole = ask(client).usage
    assert whole is not None
    assert chunks[-1]["usage"] == whole.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})
    assert len(chunks) > 4, "it comes in pieces"


def test_the_clients_stream_helper_accepts_it(client: OpenAI) -> None:
    with client.chat.completions.stream(model=TUNED, messages=ASK, temperature=0, n=2, logprobs=True) as stream:  # pyright: ignore
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [ANSWER, ANSWER]
    assert final.choices[1].logprobs is not None
    assert final.choices[1].logprobs.content


def test_n_seed_stop_and_logprobs(client: OpenAI) -> None:
    def said(seed: int) -> list[str | None]:
        answer = ask(client, temperature=1.5, n=3, seed=seed)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert said(1) == said(1)
    assert said(1) != said(2)
    stopped = ask(client, stop=["stom", "zzz"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("the cu", "stop")
    choice = ask(client, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == ANSWER
    for token in choice.logprobs.content:
        assert token.token == token.top_logprobs[0].token, "greedy takes the likeliest"
        assert token.logprob == token.top_logprobs[0].logprob > token.top_logprobs[1].logprob
        assert bytes(token.bytes or []) == token.token.encode()
    assert ask(client, max_tokens=1).choices[0].finish_reason == "length"
    assert ask(client, max_tokens=None, max_completion_tokens=1).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"model": "ft:nobody"}, 404, "model_not_found", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "invalid_messages", "messages[0].role"),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, "special_token_in_text", "messages[0].content"),  # noqa: E501
        ({"messages": [{"role": "user", "content": "long " * 600}]}, 400, "context_length_exceeded", "messages"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"stop": ["a"] * 5}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"stream_options": {}}, 400, "invalid_value", "stream_options"),
        ({"tools": [{"type": "function"}]}, 400, "invalid_value", "tools"),
        ({"tools": TOOLS}, 400, "tools_unsupported", "tools"),
        ({"tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, 400, "invalid_value", "tool_choice"),  # noqa: E501
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, 400, "invalid_value", "response_format"),
        ({"functions": [{"name": "f"}]}, 400, "invalid_value", "functions"),
        ({"function_call": "auto"}, 400, "invalid_value", "function_call"),
        ({"reasoning_effort": "high"}, 400, "invalid_value", "reasoning_effort"),
        ({"response_format": {"type": "yaml"}}, 400, "invalid_value", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_value", "response_format"),
        ({"response_format": schema({"type": "king"})}, 400, "invalid_json_schema", "response_format"),
        ({"response_format": schema({"$ref": "http://x/y"})}, 400, "invalid_json_schema", "response_format"),
        ({"response_format": schema({"not": {}})}, 400, "invalid_json_schema", "response_format"),
        ({"response_format": schema({"enum": ["x" * 33_000]})}, 400, "invalid_json_schema", "response_format"),
        ({"attune": {"scale": 2}}, 400, "invalid_value", "attune.scale"),
        ({"attune": {"adapter_scale": 2.1}}, 400, "invalid_value", "attune.adapter_scale"),
        ({"attune": {"adapter_scale": -1}}, 400, "invalid_value", "attune.adapter_scale"),
        ({"model": "tiny", "attune": {"adapter_scale": 1}}, 400, "adapter_scale_unsupported", "attune.adapter_scale"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(
    client: OpenAI, changes: dict[str, object], status: int, code: str, param: str
) -> None:
    body: dict[str, object] = {"model": TUNED, "messages": ASK, **changes}
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body=body, cast_to=ChatCompletion)
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.body["message"]  # type: ignore[index]


def test_the_scale_of_an_adapter_goes_from_the_base_to_the_model(client: OpenAI) -> None:
    def said(model: str, **ours: float) -> str | None:
        return ask(client, model, extra_body={"attune": ours} if ours else {}).choices[0].message.content

    assert said(TUNED, adapter_scale=0) == said("tiny") != ANSWER
    assert said(TUNED, adapter_scale=1) == said(TUNED) == ANSWER
    text = {"prompt": QUESTION, "temperature": 0, "max_tokens": 8}
    base, nothing = (
        client.completions.create(model=model, extra_body=extra, **text).choices[0].text  # pyright: ignore
        for model, extra in (("tiny", {}), (TUNED, {"attune": {"adapter_scale": 0}}))
    )
    assert base == nothing


def test_what_changes_no_answer_is_ignored(client: OpenAI) -> None:
    answer = ask(
        client, user="me", store=False, metadata={"a": "b"}, service_tier="auto", tools=[], extra_body={"x": 1}
    )
    assert answer.choices[0].message.content == ANSWER


def test_the_doors(place: Place) -> None:
    with place.http() as http:
        assert http.get("/health", headers={"Authorization": ""}).json()["status"] == "ok"
        for key in ("", "Bearer wrong", "Bearer ü".encode()):
            refused = http.post("/v1/chat/completions", json={}, headers={"Authorization": key})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        large = http.post("/v1/chat/completions", content=b"x" * (place.settings.max_json_bytes + 1))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        assert http.post("/v1/chat/completions", content=b"{").json()["error"]["code"] == "invalid_json"
        for method, path, status in (("GET", "/v1/chat/completions", 405), ("GET", "/v1/nothing", 404)):
            answer = http.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, "unknown_url")
    token = place.settings.data_dir / "serve-token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_many_at_once_of_several_models_answer_as_they_do_alone(client: OpenAI) -> None:
    names = [TUNED, "tiny", CHECKPOINT] * 3
    alone = {name: ask(client, name).choices[0].message.content for name in set(names)}
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: ask(client, name).choices[0].message.content, names))
    assert answers == [alone[name] for name in names]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_generation(place: Place, stream: bool) -> None:
    endless = {
        "model": "tiny",
        "messages": ASK,
        "stream": stream,
        "n": 128,  # enough to be at it when somebody looks
        "logit_bias": {"2": -100},  # the end token
    }
    with place.http() as http, place.http() as watcher:

        def live() -> int:
            return watcher.get("/health").json()["live_requests"]

        with ThreadPoolExecutor(1) as pool:
            if stream:
                with http.stream("POST", "/v1/chat/completions", json=endless) as answer:
                    first = next(answer.iter_lines())
                    assert answer.status_code == 200, first
                    assert '"error"' not in first
                    eventually(lambda: live() == 1)  # the first line is there before the first step
            else:
                asked = pool.submit(http.post, "/v1/chat/completions", json=endless, timeout=0.4)
                eventually(lambda: live() == 1)
                assert isinstance(asked.exception(), httpx.ReadTimeout)
        left_at = time.monotonic()
        eventually(lambda: live() == 0)
        assert time.monotonic() - left_at < 3.0


def test_a_damaged_adapter_is_not_served(place: Place, client: OpenAI) -> None:
    ask(client, "tiny")
    with place.database.begin() as session:
        row = session.get_one(Model, CHECKPOINT)
        session.expunge(row)
        files = [{**file, "sha256": "0" * 64} for file in row.files]
        session.get_one(Model, CHECKPOINT).files = files
    try:
        ask(client, TUNED)  # evicts the other
        with pytest.raises(openai.InternalServerError, match="lost or damaged") as caught:
            ask(client, CHECKPOINT)
        assert caught.value.code == "model_damaged"
    finally:
        with place.database.begin() as session:
            session.get_one(Model, CHECKPOINT).files = row.files
    assert ask(client, CHECKPOINT).choices[0].message.content == ANSWER


def test_a_deleted_model_is_gone(place: Place, client: OpenAI) -> None:
    ask(client, CHECKPOINT)
    with place.database.begin() as session:
        session.get_one(Model, CHECKPOINT).deleted_at = 1.0
    try:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            ask(client, CHECKPOINT)
    finally:
        with place.database.begin() as session:
            session.get_one(Model, CHECKPOINT).deleted_at = None


def test_the_server_stands_in_its_table(place: Place) -> None:
    with place.database.read() as session:
        found = servers.find(session, "tiny")
    assert [(row.address, row.device) for row in found] == [(place.settings.resolved_serve_address, "cpu")]


def test_the_program_answers_health_at_once_and_ends_in_order(job: TrainedJob, tmp_path: Path) -> None:
    made = make_place(tmp_path, job)
    environment = {
        **os.environ,
        "ATTUNE_DATA_DIR": str(made.settings.data_dir),
        "ATTUNE_SERVE_PORT": str(made.settings.serve_port),
        "ATTUNE_DEVICE": "cpu",
    }
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "worker.serve"], env=environment)
    try:
        with made.http() as http:

            def health() -> dict[str, object]:
                try:
                    return http.get("/health").json()
                except httpx.TransportError:
                    return {}

            eventually(lambda: health().get("status") == "ok")
            assert time.monotonic() - begun < 8.0
            eventually(lambda: health().get("ready"), 40.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    with made.database.read() as session:
        assert not servers.alive(session)
    made.database.close()
