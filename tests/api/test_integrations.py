"""Integrations in a request to train: which are taken, how they are echoed, and which servers may not be named."""

from __future__ import annotations

from typing import Any

from tests.api.place import BASE, Tenant


def asked(tenant: Tenant, ours: Any, **fields: Any) -> Any:
    body = {"model": BASE, "training_file": tenant.upload(), "attune": {"integrations": ours}, **fields}
    return tenant.http.post("/v1/fine_tuning/jobs", json=body).json()


def test_ours_are_echoed_beside_openais(tenant: Tenant) -> None:
    mlflow = {"tracking_uri": None, "experiment": "support", "run_name": None}
    ours = [{"type": "mlflow", "mlflow": {"experiment": "support"}}, {"type": "tensorboard"}]
    job = asked(tenant, ours, integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
    shown = {"project": "p", "name": None, "entity": None, "tags": None}
    assert job["integrations"] == [{"type": "wandb", "wandb": shown}]
    assert job["attune"]["integrations"] == [{"type": "mlflow", "mlflow": mlflow}, {"type": "tensorboard"}]
    alone = asked(tenant, [{"type": "tensorboard"}])
    assert (alone["integrations"], alone["attune"]["integrations"]) == (None, [{"type": "tensorboard"}])
    assert asked(tenant, None)["attune"]["integrations"] is None


def test_what_cannot_be_an_integration_is_refused(tenant: Tenant) -> None:
    for wrong in (
        [{"type": "comet"}],
        [{"type": "wandb", "wandb": {"project": "p"}}],
        [{"type": "tensorboard", "folder": "/x"}],
        [{"type": "mlflow", "mlflow": {"token": "x"}}],
        [{"type": "tensorboard"}] * 6,
    ):
        assert asked(tenant, wrong)["error"]["param"].startswith("attune.integrations"), wrong
    for uri in ("file:///etc", "sqlite:///x.db", "http://169.254.169.254/", "http://127.0.0.1:5000"):
        error = asked(tenant, [{"type": "mlflow", "mlflow": {"tracking_uri": uri}}])["error"]
        assert error["code"] == "tracking_uri_refused", uri
