"""One trained adapter for all tests of generation, proof and server."""

from __future__ import annotations

import pytest

from tests.worker.trained import TrainedJob, train_job


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainedJob:
    return train_job(tmp_path_factory.mktemp("job"))
