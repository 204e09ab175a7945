"""One trained adapter for all tests of generation, proof and server; and a running server over it for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.worker.serving import Place, make_place, running
from tests.worker.trained import TrainedJob, train_job


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainedJob:
    return train_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def place(job: TrainedJob, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    # Room for one adapter: every change of model is an eviction and a load
    with running(make_place(tmp_path_factory.mktemp("serve"), job, serve_adapters=1)) as made:
        yield made


@pytest.fixture(scope="module")
def client(place: Place) -> OpenAI:
    return place.client()
