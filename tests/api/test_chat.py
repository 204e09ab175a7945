"""Chat: found by the model's base, passed on as it comes, and dropped when either side leaves.

The server here is a small OpenAI-like program behind a real socket, as an operator would add one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from core.serving import servers
from tests.api.place import BASE, Place, Tenant, running
from tests.services import free_port

CHUNKS = 5


@dataclass
class Seen:
    """What the server was asked, and how its streams ended."""

    bodies: list[dict[str, object]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    dropped: int = 0


def generator(seen: Seen) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        seen.tokens.append(request.headers.get("authorization"))
        words = body["messages"][0]["content"]
        if words == "busy":
            error = {"message": "training", "type": "server_error", "param": None, "code": "device_busy"}
            return JSONResponse({"error": error}, 503, {"Retry-After": "7"})
        if words == "wait":
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
            seen.dropped += 1
        if body.get("stream"):
            return StreamingResponse(stream(body["model"], words), media_type="text/event-stream")
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words.upper()}}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        return JSONResponse({**head, "choices": [choice]})

    @app.post("/v1/completions")
    async def text(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        choice = {"index": 0, "finish_reason": "stop", "text": body["prompt"].upper(), "logprobs": None}
        return JSONResponse(
            {"id": "c", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice]}
        )

    async def stream(model: str, words: str) -> AsyncIterator[str]:
        try:
            for number in range(10_000 if words == "endless" else CHUNKS):
                choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
                head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
                if words == "break" and number == 2:
                    raise RuntimeError("the program dies")
                await asyncio.sleep(0.1)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            seen.dropped += 1
            raise

    return app


@pytest.fixture
def seen(web: Place) -> Iterator[Seen]:
    """A server for the small base, added by the operator, beside one that is down."""
    seen = Seen()
    with running(generator(seen)) as address, web.operator as http:
        for name, at in (("a-down", f"http://127.0.0.1:{free_port()}"), ("b-up", address)):
            added = http.post("/v1/attune/servers", json={"id": name, "address": at, "base_model": BASE})
            assert added.status_code == 200, added.text
        assert {"a-down", "b-up"} <= {row["id"] for row in http.get("/v1/attune/servers").json()["data"]}
        yield seen
        for name in ("a-down", "b-up"):
            assert http.delete(f"/v1/attune/servers/{name}").json()["deleted"]


def ask(tenant: Tenant, words: str, model: str = BASE) -> str | None:
    messages = [{"role": "user", "content": words}]
    answer = tenant.openai.chat.completions.create(model=model, messages=messages)  # type: ignore[arg-type]
    return answer.choices[0].message.content


def test_base_and_own_model_reach_the_bases_server(web: Place, tenant: Tenant, seen: Seen) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    model_id = web.publish(web.start(job_id), 9, final=True)
    assert ask(tenant, "hello") == "HELLO"
    assert ask(tenant, "hello", model_id) == "HELLO"
    assert [body["model"] for body in seen.bodies] == [BASE, model_id]
    assert seen.tokens == [None, None]  # our token is not for an operator's server


def test_the_older_route_goes_the_same_way(tenant: Tenant, seen: Seen) -> None:
    assert tenant.openai.completions.create(model=BASE, prompt="hello", echo=False).choices[0].text == "HELLO"
    assert seen.bodies[-1] == {"model": BASE, "prompt": "hello", "echo": False}
    with pytest.raises(openai.NotFoundError):
        tenant.openai.completions.create(model="ft:of:nobody::00000000", prompt="hello")


def test_a_scale_is_refused_where_the_server_would_ignore_it(web: Place, tenant: Tenant, seen: Seen) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "hello"}], "attune": {"adapter_scale": 0.5}}
    with tenant.http as http:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "adapter_scale_unsupported"
        assert answer.json()["error"]["param"] == "attune.adapter_scale"
        assert not seen.bodies
        for wrong in ({"adapter_scale": 3}, {"adapter_scale": True}, {"strength": 1}):
            assert http.post("/v1/chat/completions", json=body | {"attune": wrong}).status_code == 400


def test_embeddings_are_refused_with_what_to_use_instead(tenant: Tenant) -> None:
    with pytest.raises(openai.BadRequestError, match="base_url") as refused:
        tenant.openai.embeddings.create(model=BASE, input="hello")
    assert refused.value.code == "unsupported_endpoint"


def test_our_own_server_gets_the_token(web: Place, tenant: Tenant) -> None:
    seen = Seen()
    with running(generator(seen)) as address:
        with web.database.begin() as session:
            servers.register(session, "ours", base_model=None, address=address, device="cpu")
        assert ask(tenant, "hello") == "HELLO"
        with web.database.begin() as session:
            servers.leave(session, "ours")
    assert seen.tokens == [f"Bearer {(web.settings.data_dir / 'serve-token').read_text()}"]


def test_a_stream_comes_as_it_is_made(tenant: Tenant, seen: Seen) -> None:
    started = time.monotonic()
    arrivals: list[float] = []
    words = ""
    stream = tenant.openai.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "x"}], stream=True)
    for chunk in stream:
        arrivals.append(time.monotonic() - started)
        words += chunk.choices[0].delta.content or ""
    assert words.split() == [str(number) for number in range(CHUNKS)]
    assert arrivals[-1] - arrivals[0] > 0.25  # not held back and sent as one


def test_a_client_that_leaves_ends_the_work(tenant: Tenant, seen: Seen) -> None:
    for body in ({"stream": True, "words": "endless"}, {"stream": False, "words": "wait"}):
        dropped = seen.dropped
        content = {"model": BASE, "messages": [{"role": "user", "content": body["words"]}], "stream": body["stream"]}
        with tenant.http as http:
            try:
                with http.stream("POST", "/v1/chat/completions", json=content, timeout=0.5) as answer:
                    next(answer.iter_lines())
            except httpx.ReadTimeout:
                pass
        deadline = time.monotonic() + 5
        while seen.dropped == dropped and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seen.dropped == dropped + 1


def test_a_server_that_breaks_off_is_told_in_the_stream(tenant: Tenant, seen: Seen) -> None:
    stream = tenant.openai.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "break"}], stream=True
    )
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)


def test_a_servers_refusal_is_passed_on(tenant: Tenant, seen: Seen) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        ask(tenant, "busy")
    assert refused.value.code == "device_busy"
    assert refused.value.response.headers["retry-after"] == "7"


def test_what_was_checked_is_what_is_sent(tenant: Tenant, seen: Seen) -> None:
    messages = '"messages": [{"role": "user", "content": "x"}]'
    twice = f'{{"model": "ft:someone:else", "model": "{BASE}", {messages}, "top_p": 0.5}}'
    answer = tenant.http.post("/v1/chat/completions", content=twice, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert seen.bodies[-1] == {"model": BASE, "messages": [{"role": "user", "content": "x"}], "top_p": 0.5}


def test_without_a_server_come_again(tenant: Tenant) -> None:
    with pytest.raises(openai.InternalServerError) as away:
        ask(tenant, "hello")
    assert (away.value.status_code, away.value.code) == (503, "no_server")
    assert int(away.value.response.headers["retry-after"]) <= 120
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(tenant, "hello", "ft:of:nobody::00000000")
    assert unknown.value.code == "model_not_found"
    with tenant.http as http:
        for wrong, param in (({"model": BASE}, "messages"), ({"model": BASE, "messages": []}, "messages")):
            answer = http.post("/v1/chat/completions", json=wrong)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        nan = f'{{"model": "{BASE}", "messages": [{{"role": "user", "content": "x"}}], "more": NaN}}'
        answer = http.post("/v1/chat/completions", content=nan, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
