"""Paths, errors and headers (C1 to C3, C36 to C38), as the official client meets them."""

from __future__ import annotations

import os
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, Project, raw

PATHS = [
    ("POST", "/files"),
    ("GET", "/files"),
    ("GET", "/files/none"),
    ("DELETE", "/files/none"),
    ("GET", "/files/none/content"),
    ("POST", "/uploads"),
    ("POST", "/uploads/none/parts"),
    ("POST", "/uploads/none/complete"),
    ("POST", "/uploads/none/cancel"),
    ("POST", "/fine_tuning/jobs"),
    ("GET", "/fine_tuning/jobs"),
    ("GET", "/fine_tuning/jobs/none"),
    ("POST", "/fine_tuning/jobs/none/cancel"),
    ("POST", "/fine_tuning/jobs/none/pause"),
    ("POST", "/fine_tuning/jobs/none/resume"),
    ("GET", "/fine_tuning/jobs/none/events"),
    ("GET", "/fine_tuning/jobs/none/checkpoints"),
    ("POST", "/fine_tuning/checkpoints/none/permissions"),
    ("GET", "/fine_tuning/checkpoints/none/permissions"),
    ("DELETE", "/fine_tuning/checkpoints/none/permissions/none"),
    ("POST", "/fine_tuning/alpha/graders/run"),
    ("POST", "/fine_tuning/alpha/graders/validate"),
    ("GET", "/models"),
    ("GET", "/models/none"),
    ("DELETE", "/models/none"),
    ("POST", "/chat/completions"),
    ("GET", "/chat/completions"),
    ("GET", "/chat/completions/none"),
    ("POST", "/chat/completions/none"),
    ("DELETE", "/chat/completions/none"),
    ("GET", "/chat/completions/none/messages"),
    ("POST", "/completions"),
    ("POST", "/embeddings"),
]


def send(client: OpenAI, method: str, path: str, body: object = None) -> Any:
    if method == "POST":
        return client.post(path, cast_to=object, body=body)
    return client.get(path, cast_to=object) if method == "GET" else client.delete(path, cast_to=object)


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda part: part.strip("/").replace("/", "-"))
def test_c01_every_path_is_there(client: OpenAI, method: str, path: str) -> None:
    try:
        code = send(client, method, path)["object"]
    except openai.APIStatusError as error:
        code = error.code
    assert code not in (None, "unknown_url", "method_not_allowed")


FAILURES: list[tuple[str, str, Any, type[openai.APIStatusError], int]] = [
    ("GET", "/nowhere", None, openai.NotFoundError, 404),
    ("DELETE", "/fine_tuning/jobs", None, openai.APIStatusError, 405),
    ("POST", "/fine_tuning/jobs", {"model": BASE}, openai.BadRequestError, 400),
    ("POST", "/fine_tuning/jobs", {"model": BASE, "training_file": 7}, openai.BadRequestError, 400),
    ("POST", "/fine_tuning/jobs", ["a list"], openai.BadRequestError, 400),
    ("POST", "/fine_tuning/jobs", {"model": "x" * (3 << 20)}, openai.APIStatusError, 413),
    ("POST", "/files", {"purpose": "fine-tune"}, openai.BadRequestError, 400),
    ("GET", "/files?limit=0", None, openai.BadRequestError, 400),
    ("GET", "/files/none", None, openai.NotFoundError, 404),
    ("GET", "/fine_tuning/jobs/none", None, openai.NotFoundError, 404),
    ("GET", "/models/none", None, openai.NotFoundError, 404),
    ("POST", "/chat/completions", {"model": "none", "messages": [{}]}, openai.NotFoundError, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "status"), FAILURES, ids=range(len(FAILURES)))
def test_c02_every_failure_has_the_envelope(
    client: OpenAI, method: str, path: str, body: object, kind: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(kind) as failed:
        send(client, method, path, body)
    assert failed.value.status_code == status
    check_envelope(failed.value)


def check_envelope(failure: openai.APIStatusError) -> None:
    assert failure.response.json().keys() == {"error"}
    error: Any = failure.body  # the client has unwrapped it
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert (failure.code, failure.param, failure.type) == (error["code"], error["param"], error["type"])
    assert failure.code


def test_c02_a_wrong_key_is_an_authentication_error(project: Project) -> None:
    with pytest.raises(openai.AuthenticationError) as failed:
        OpenAI(base_url=project.url, api_key="sk-wrong").models.list()
    check_envelope(failed.value)


def test_c02_the_known_wordings(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune: ftjob-none") as job:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert (job.value.code, job.value.param) == ("fine_tune_not_found", "fine_tune_id")
    with pytest.raises(openai.NotFoundError, match="No such File object: file-none") as file:
        client.files.retrieve("file-none")
    assert file.value.param == "id"
    with pytest.raises(openai.NotFoundError, match="The model 'none' does not exist") as model:
        client.models.retrieve("none")
    assert model.value.code == "model_not_found"


def test_c03_every_answer_has_a_request_id(client: OpenAI, training_file: str) -> None:
    file = client.files.retrieve(training_file)
    again = client.files.with_raw_response.retrieve(training_file)
    assert file._request_id
    assert file._request_id != again.headers["x-request-id"]
    assert again.headers["openai-processing-ms"].isdigit()
    assert again.headers["openai-version"]
    assert again.parse().id == training_file
    with pytest.raises(openai.NotFoundError) as failed:
        client.files.retrieve("none")
    assert failed.value.request_id == failed.value.response.headers["x-request-id"]
    with client.files.with_streaming_response.content(training_file) as content:
        assert content.headers["x-request-id"]
        assert b"".join(content.iter_bytes()).startswith(b'{"messages"')


def test_c36_organization_and_project_may_be_named(project: Project, trained: FineTuningJob) -> None:
    named = project.client(organization=trained.organization_id, project=project.id)
    assert named.fine_tuning.jobs.retrieve(trained.id).id == trained.id
    headers = named.models.with_raw_response.list().http_response.request.headers
    assert headers["openai-organization"] == trained.organization_id
    assert headers["openai-project"] == project.id


def test_c37_this_generation_of_the_client(client: OpenAI) -> None:
    expected = os.environ.get("ATTUNE_CLIENT", openai.__version__)
    assert openai.__version__.startswith(expected)
    answer = client.models.with_raw_response.list()
    assert answer.http_response.request.headers["x-stainless-package-version"] == openai.__version__
    assert raw(answer)["object"] == "list"


def test_c37_options_of_a_request_pass_through(client: OpenAI) -> None:
    page = client.with_options(max_retries=0, timeout=20).fine_tuning.jobs.list(
        limit=1, extra_headers={"X-Own": "1"}, extra_query={"unknown": "1"}
    )
    assert len(page.data) <= 1
