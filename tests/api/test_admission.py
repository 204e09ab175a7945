"""Who comes when too many wait is refused at once, told when to return, and served then."""

from __future__ import annotations

import threading

import anyio
import pytest
from anyio import to_thread

from api import admission
from core.errors import Unavailable
from tests.api.place import Tenant


def test_a_refusal_says_when_to_return_and_leaves_no_trace(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = tenant.job()
    monkeypatch.setattr(admission, "LINE", 0)
    for method, path in (("GET", f"/v1/fine_tuning/jobs/{job_id}"), ("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")):
        refused = tenant.http.request(method, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(refused.headers["retry-after"]) <= 4
        assert "x-should-retry" not in refused.headers
    assert tenant.http.get("/healthz").status_code == 200  # a busy process is not a dead one
    monkeypatch.undo()
    job = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}")
    assert (job.status_code, job.json()["status"]) == (200, "validating_files")


def test_those_who_wait_for_a_thread_are_counted() -> None:
    async def fill() -> None:
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        held = threading.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(admission.LINE):  # one is served, the others wait
                tasks.start_soon(to_thread.run_sync, held.wait)
            await anyio.wait_all_tasks_blocked()
            admission.admit("/v1/files")
            tasks.start_soon(to_thread.run_sync, held.wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Unavailable):
                admission.admit("/v1/files")
            admission.admit("/v1/attune/fine_tuning/jobs/ftjob-1/stream")  # which waits in any line
            held.set()
        admission.admit("/v1/files")

    anyio.run(fill)
