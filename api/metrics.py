"""GET /metrics: what Prometheus reads. Requests and memory are this process's, the rest is asked of the database."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from core.db import Database
from core.upkeep import census


class Requests:
    """Requests of this process, by route and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files and CPU time, where there is a /proc
        self._answered = Counter(
            "attune_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "attune_http_request_seconds",
            "Time until the answer was sent whole",
            ["method", "route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0),
            registry=self.registry,
        )
        self._refused = Counter(
            "attune_http_errors", "Errors answered, by code", ["code", "status"], registry=self.registry
        )

    def refuse(self, code: str, status: int) -> None:
        """An error was answered; `code` is one of the API's own, such as storage_unavailable."""
        self._refused.labels(code, str(status)).inc()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is a pattern such as /v1/files/{file_id}, so that ids do not become labels."""
        self._answered.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class _Census:
    """Asks the database at each scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._database.read() as session:
            found = census.take(session)
        jobs = GaugeMetricFamily("attune_jobs", "Jobs by status", labels=["status"])
        for status, count in found.jobs.items():
            jobs.add_metric([status], count)
        yield jobs
        batches = GaugeMetricFamily("attune_batches", "Batches by status", labels=["status"])
        for status, count in found.batches.items():
            batches.add_metric([status], count)
        yield batches
        workers = GaugeMetricFamily("attune_workers", "Workers alive, by what they do", labels=["state"])
        for state, count in found.workers.items():
            workers.add_metric([state], count)
        yield workers
        deliveries = GaugeMetricFamily(
            "attune_webhook_deliveries", "Deliveries in the log, by what became of them", labels=["state"]
        )
        for state, count in found.deliveries.items():
            deliveries.add_metric([state], count)
        yield deliveries
        for name, text, value in (
            ("attune_workers_warm", "Workers with a base in memory", found.warm_workers),
            ("attune_servers", "Generation servers alive", found.servers),
            ("attune_queue_oldest_seconds", "Age of the oldest queued job", found.oldest_queued_s),
            ("attune_attempts", "Attempts begun, of the jobs there are", found.attempts),
            ("attune_attempts_lost", "Attempts that ended without a result", found.attempts_lost),
            ("attune_training_tokens_per_second", "Of all running jobs, by their last step", found.tokens_per_s),
        ):
            yield GaugeMetricFamily(name, text, value=value)


def exposition(requests: Requests, database: Database) -> bytes:
    """The text of one scrape."""
    asked = CollectorRegistry()
    asked.register(_Census(database))
    return generate_latest(asked) + generate_latest(requests.registry)
