"""What clients wanted and were told: kept on this side of the wire, and held against the database by the checker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

EXAMPLES = 24
BATCH = 4
STEPS_PER_EPOCH = EXAMPLES // BATCH
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Intent:
    """One job that a client wanted. `job_id` None: it never learnt whether it has one."""

    name: str
    seed: int
    data: bytes
    epochs: int
    key: str = ""  # of the client that wanted it
    job_id: str | None = None
    cancelled: bool = False  # and the service has said yes
    may_end: tuple[str, ...] = ("succeeded",)  # what a good run of it may come to

    @property
    def steps(self) -> int:
        return self.epochs * STEPS_PER_EPOCH

    @property
    def adapter_sha256(self) -> str:
        """Of an undisturbed run of the fake engine."""
        link = hashlib.sha256(f"{self.seed}{hashlib.sha256(self.data).hexdigest()}".encode()).hexdigest()
        for step in range(1, self.steps + 1):
            link = hashlib.sha256(f"{link}{step}".encode()).hexdigest()
        return hashlib.sha256(link.encode() * 64).hexdigest()


@dataclass
class History:
    """Everything that was acknowledged to a client."""

    files: dict[str, bytes] = field(default_factory=dict)
    jobs: list[Intent] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def training_data(word: str) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"{word} {n}?"}, {"role": "assistant", "content": "today"}]}
        for n in range(EXAMPLES)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()
