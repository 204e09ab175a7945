"""Tenants: another's id answers exactly as one that was never given out; operators' routes are theirs alone."""

from __future__ import annotations

from tests.api.place import Place, Tenant, examples


def test_a_foreign_id_answers_as_a_random_one(web: Place, tenant: Tenant) -> None:
    owner = web.tenant("owner")
    file_id = owner.upload()
    job_id = owner.job(training_file=file_id, attune={"label": "here"})
    web.prepare(job_id)
    model_id = web.publish(web.start(job_id), 9, final=True)
    events = owner.http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    mine = tenant.upload()
    swap = {
        file_id: "file-" + "0" * 24,
        job_id: "ftjob-" + "0" * 24,
        model_id: "ft:base:org::00000000",
        events[0]["id"]: "ftevent-" + "0" * 24,
    }
    calls = [
        ("GET", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/files/{file_id}/content", None),
        ("DELETE", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/files?after={file_id}", None),
        ("GET", f"/v1/fine_tuning/jobs?after={job_id}", None),
        *[("GET", f"/v1/fine_tuning/jobs/{job_id}{rest}", None) for rest in ("", "/events", "/checkpoints")],
        *[("POST", f"/v1/fine_tuning/jobs/{job_id}/{verb}", None) for verb in ("cancel", "pause", "resume")],
        ("GET", f"/v1/attune/fine_tuning/jobs/{job_id}/log", None),
        ("GET", f"/v1/models/{model_id}", None),
        ("DELETE", f"/v1/models/{model_id}", None),
        ("GET", f"/v1/attune/models/{model_id}/download", None),
        ("GET", f"/v1/attune/models/{model_id}/files/adapter_config.json", None),
        ("POST", "/v1/fine_tuning/jobs", {"model": "tiny/base", "training_file": file_id}),
        ("POST", "/v1/fine_tuning/jobs", {"model": "tiny/base", "training_file": mine, "validation_file": file_id}),
        ("POST", "/v1/fine_tuning/jobs", {"model": model_id, "training_file": mine}),
        ("POST", "/v1/chat/completions", {"model": model_id, "messages": [{"role": "user", "content": "x"}]}),
    ]
    with tenant.http as http:
        for method, path, body in calls:
            answers: list[tuple[int, str]] = []
            for exchange in (False, True):
                text = repr((path, body))
                if exchange:
                    for foreign, unknown in swap.items():
                        text = text.replace(foreign, unknown)
                sent_path, sent_body = eval(text)
                answer = http.request(method, sent_path, json=sent_body)
                said = answer.text
                for foreign, unknown in swap.items():
                    said = said.replace(foreign, unknown)
                answers.append((answer.status_code, said))
            assert answers[0] == answers[1], (method, path)
            assert answers[0][0] in (400, 404), (method, path, answers[0])
        assert [file["id"] for file in http.get("/v1/files").json()["data"]] == [mine]
        assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
        assert model_id not in {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert owner.openai.files.retrieve(file_id).id == file_id


def test_operators_routes_refuse_others(web: Place, tenant: Tenant) -> None:
    refused = [
        ("GET", "/v1/attune/projects"),
        ("POST", "/v1/attune/projects"),
        ("DELETE", f"/v1/attune/projects/{tenant.project_id}"),
        ("POST", "/v1/attune/base_models"),
        ("DELETE", "/v1/attune/base_models/tiny/base"),
        ("GET", "/v1/attune/workers"),
        ("GET", "/v1/attune/servers"),
        ("POST", "/v1/attune/servers"),
        ("DELETE", "/v1/attune/servers/x"),
    ]
    bodies = {"/v1/attune/base_models": {"location": "x"}, "/v1/attune/servers": {}}
    with tenant.http as http:
        for method, path in refused:
            body = bodies.get(path, {"name": "x"}) if method == "POST" else None
            answer = http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operator_required"), (method, path)
        assert http.get("/v1/attune/base_models").status_code == 200


def test_an_erased_project_leaves_nothing(web: Place) -> None:
    tenant, neighbour = web.tenant("leaving"), web.tenant("staying")
    kept = neighbour.upload()
    ended = tenant.job(attune={"label": "here"})
    web.prepare(ended)
    web.publish(web.start(ended), 9, final=True)
    held = tenant.job(attune={"label": "here"})
    web.prepare(held)
    claim = web.start(held)
    with web.operator as http:
        busy = http.delete(f"/v1/attune/projects/{tenant.project_id}")
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "project_busy")
        assert int(busy.headers["retry-after"]) > 0
        assert tenant.http.get("/v1/files").status_code == 401  # closed at once
        web.give_up(claim)
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").json()["deleted"]
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").status_code == 404
    assert tenant.left() == (0, 0)
    assert neighbour.openai.files.content(kept).read() == examples(12)
