"""A job names an MLflow server of the operator's list, or none: however the address is written."""

from __future__ import annotations

import pytest

from core import tracking_address
from core.errors import AttuneError

ALLOWED = "mlflow.lan, 10.0.0.5:5000 ,[fd00::1]:5000"


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow.lan", "https://MLFLOW.lan/", "https://mlflow.lan:443/a/b", "http://10.0.0.5:5000",
        "http://[fd00::1]:5000/",
    ],
)  # fmt: skip
def test_listed_servers_may_be_named(uri: str) -> None:
    tracking_address.check(uri, ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "", "mlruns", "/etc", "file:///etc/passwd", "file://mlflow.lan/x", "sqlite:////etc/passwd", "databricks",
        "postgresql://mlflow.lan/x", "s3://mlflow.lan", "http://", "http:///mlflow.lan", "http://mlflow.lan:5000",
        "http://10.0.0.5", "http://10.0.0.5:50001", "http://169.254.169.254/", "http://localhost:5000",
        "http://mlflow.lan@evil.example/", "http://evil.example@mlflow.lan/", "http://user:pass@mlflow.lan/",
        "http://evil.example\\@mlflow.lan/", "http://mlflow.lan#@evil.example/", "http://mlflow.lan?@evil.example",
        "http://mlflow.lan.evil.example/", "http://evil.mlflow.lan", "http://mlflow.lan\n.evil.example",
        "http://mlflow.lan\t", " http://mlflow.lan", "http://mlflow.lan,10.0.0.5:5000", "http://mlflow.lan:",
        "http://mlﬂow.lan", "http://[fd00::1", "http://[fd00::2]:5000/",
    ],
)  # fmt: skip
def test_no_other_server_may(uri: str) -> None:
    with pytest.raises(AttuneError) as refused:
        tracking_address.check(uri, ALLOWED)
    assert (refused.value.code, refused.value.param) == ("tracking_uri_refused", "attune.integrations")
    with pytest.raises(AttuneError):
        tracking_address.check(uri, "")


def test_an_empty_list_allows_none() -> None:
    for uri in ("http://mlflow.lan", "http://", "http://:80"):
        with pytest.raises(AttuneError):
            tracking_address.check(uri, "")
