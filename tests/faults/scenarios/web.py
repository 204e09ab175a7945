"""F18, F19 and F35: the web process is killed, restarted, or asked to take away what a job needs."""

from __future__ import annotations

import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import openai

from core.models import Job
from tests.faults.history import ENDED, Intent
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import Outcome, scenario

PER_S = 50.0  # requests that are meant to be made at once with a restart
CLIENTS = 4
RETRIES = 12


@scenario("F18", "kill -9 of the web process under creates and uploads")
def kill_web(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intents: list[Intent] = []
        timer = threading.Timer(random.random() * 0.3, rig.web.kill)
        deaths = rig.web.deaths
        timer.start()
        for _ in range(3):
            with suppress(openai.APIError):
                intents.append(rig.create(rig.upload(), 6))
        timer.join()
        rig.until_ready()
        landed += rig.web.deaths > deaths
        recovery_s = max(recovery_s, rig.until_ended(intents))
    return Outcome(landed, recovery_s)


@dataclass
class _Load:
    """Clients that ask, each for what it got before, and a listener of one job's events."""

    rig: Rig
    intent: Intent
    over: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    failed: list[str] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)

    def ask(self) -> None:
        client = self.rig.client(RETRIES)
        while not self.over.wait(CLIENTS / PER_S):
            try:
                client.fine_tuning.jobs.retrieve(self.intent.job_id or "")
                self.asked += 1
            except openai.APIError as error:
                self.failed.append(f"{type(error).__name__} {error}")

    def listen(self) -> None:
        """As an EventSource does: again from the last event heard, until 204."""
        path = f"/v1/attune/fine_tuning/jobs/{self.intent.job_id}/stream"
        while not self.over.is_set():
            headers = {"Last-Event-ID": str(self.heard[-1])} if self.heard else {}
            with suppress(httpx.TransportError), self.rig.http().stream("GET", path, headers=headers) as answer:
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        self.heard.append(int(line.removeprefix("id: ")))
            time.sleep(0.1)


@scenario("F19", "the web process is restarted under load", share=0.5)
def restart_web(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        load = _Load(rig, rig.create(rig.upload(), 300))
        listener = threading.Thread(target=load.listen)
        threads = [listener, *(threading.Thread(target=load.ask) for _ in range(CLIENTS))]
        for thread in threads:
            thread.start()
        rig.until(lambda load=load: load.asked > CLIENTS and len(load.heard) > 2, "the load has begun")
        deaths = rig.web.deaths
        rig.web.signal(signal.SIGTERM)
        rig.until(lambda deaths=deaths: rig.web.deaths > deaths, "the web process ends")
        rig.until_ready()
        recovery_s = max(recovery_s, rig.until_ended([load.intent]))
        listener.join(60)
        load.over.set()
        for thread in threads:
            thread.join()
        assert not load.failed, f"requests failed in spite of their retries: {load.failed[:3]}"
        with rig.database() as database, database.read() as session:
            events = session.get_one(Job, load.intent.job_id).event_seq
        assert load.heard == list(range(1, events + 1)), f"of {events} events these were heard: {load.heard[:100]}"
        landed += 1
    return Outcome(landed, recovery_s)


@scenario("F35", "a file is deleted while a job needs it")
def delete_in_use(rig: Rig, times: int) -> Outcome:
    """One rule: 400, which no client tries again; once the job has ended it may go."""
    landed = 0
    intents: list[Intent] = []
    for _ in range(times):
        file_id = rig.upload()
        intents.append(rig.create(file_id, 12))
        try:
            rig.client().files.delete(file_id)
            assert rig.status(intents[-1]) in ENDED, f"{file_id} was deleted under {intents[-1].job_id}"
            rig.history.deleted.append(file_id)
        except openai.BadRequestError:
            landed += 1
    return Outcome(landed, rig.until_ended(intents))
