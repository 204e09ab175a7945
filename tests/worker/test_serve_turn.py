"""A GPU that is shared: server and engine take turns on it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import openai
import pytest

from core import devices
from core.serving import servers
from tests.worker.serving import ANSWER, ASK, ask, eventually, make_place, running
from tests.worker.trained import TrainedJob


def test_on_a_shared_gpu_server_and_engine_take_turns(job: TrainedJob, tmp_path: Path) -> None:
    """The GPU is pretended: the weights lie on the CPU, the lease is real."""
    made = make_place(tmp_path, job)
    device = devices.device_id(socket.gethostname(), "cuda:0")
    assert device is not None

    def engine_takes() -> bool:
        with made.database.begin() as session:
            return devices.acquire(session, device, "engine", 60.0)

    def holder() -> str | None:
        with made.database.read() as session:
            return devices.holder_of(session, device)

    with running(made, lease_device="cuda:0", least_turn_s=0.5):
        client = made.client()
        assert holder() is None, "an idle server without weights holds nothing"
        assert ask(client).choices[0].message.content == ANSWER
        assert holder() == f"server {socket.gethostname()}:{made.settings.serve_port}"
        assert ask(client).choices[0].message.content == ANSWER

        assert not engine_takes()
        eventually(engine_takes, 5.0)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client)
            assert (caught.value.status_code, caught.value.code) == (503, "device_busy")
            assert caught.value.response.headers["retry-after"] == "10"
        with made.database.begin() as session:
            devices.release(session, device, "engine")
        assert ask(client).choices[0].message.content == ANSWER
        assert holder() != "engine"
    assert holder() is None
    with made.database.read() as session:
        assert not servers.alive(session)
    made.database.close()


def test_what_does_not_finish_in_time_is_ended_when_the_turn_ends(
    job: TrainedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.serve.turn.DRAIN_S", 0.1)
    made = make_place(tmp_path, job)
    device = devices.device_id(socket.gethostname(), "cuda:0")
    assert device is not None
    body = {"model": "tiny", "messages": ASK, "stream": True, "n": 16, "logit_bias": {"2": -100}}
    with (
        running(made, lease_device="cuda:0", least_turn_s=0.0),
        made.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        with made.database.begin() as session:
            assert not devices.acquire(session, device, "engine", 60.0)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "device_busy"
    made.database.close()
