"""`python -m tests.fuzz`: what nobody should send, in every way; and what came of it. Ends in one line of JSON.

84 bad inputs, mutated training files before two readers, jobs in any order and the matrix of tenants; the last two on
SQLite with a folder and on Postgres with S3.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.settings import Settings
from tests import services
from tests.api.place import Place, place
from tests.fuzz import bad_inputs, job_life, tenant_matrix
from tests.fuzz.mutants import compare
from tests.fuzz.subject import subject

KINDS = ("embedded", "distributed")


@contextmanager
def web_side(kind: str, folder: Path) -> Iterator[Place]:
    """SQLite and a folder, or Postgres and S3."""
    values: dict[str, object] = {"data_dir": folder, "log_level": "error", "webhook_allow": "127.0.0.1"}
    if kind == "embedded":
        with place(Settings(**values)) as web:  # pyright: ignore[reportArgumentType]
            yield web
        return
    with services.postgres() as postgres, services.s3() as s3:
        values["database_url"] = postgres.url(postgres.create_database())
        for name, value in s3.settings(s3.create_bucket()).items():
            values[name.removeprefix("ATTUNE_").lower()] = value
        with place(Settings(**values)) as web:  # pyright: ignore[reportArgumentType]
            yield web


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--sequences", type=int, default=200, help="of 50 steps, on each database")
    parser.add_argument("--only", default="", help="comma separated numbers of bad inputs")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    numbers = [int(number) for number in options.only.split(",") if number]
    table = Table("what", "tried", "answers", "seconds", "growth, MiB", "found", box=None)

    def note(*row: str) -> None:
        """A line of the table, shown at once: the whole takes a while."""
        table.add_row(*row)
        print("  ".join(row), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="attune-fuzz-") as scratch:
        (Path(scratch) / "bad").mkdir()
        with subject(Path(scratch) / "bad") as s:
            verdicts = list(bad_inputs.judged(s, numbers))
        for one in verdicts:
            growth = f"{one.growth_bytes / 1024**2:.1f}"
            note(
                f"{one.number} {one.title}",
                "1",
                str(one.answers),
                f"{one.seconds:.2f}",
                growth,
                "; ".join(one.faults) or "clear",
            )
        tally = compare(options.mutants, options.seed)
        disagreements = tally.disagreements or []
        kinds = f"{tally.refused} refused, {tally.faulty} faulty, {tally.good} good"
        note("mutated files", str(tally.mutants), "", f"{tally.seconds:.1f}", "", "; ".join(disagreements[:3]) or kinds)
        sequences, cells, leaks, broken = 0, 0, 0, 0
        for kind in KINDS:
            (Path(scratch) / kind).mkdir()
            with web_side(kind, Path(scratch) / kind) as web:
                started = time.monotonic()
                matrix = tenant_matrix.tried(web)
                cells, leaks = cells + matrix.cells, leaks + len(matrix.leaks)
                broken += len(matrix.wrong)
                note(
                    f"tenants, {kind}",
                    str(matrix.cells),
                    "",
                    f"{time.monotonic() - started:.1f}",
                    "",
                    "; ".join([*matrix.leaks, *matrix.wrong][:3]) or "no leak",
                )
                started = time.monotonic()
                try:
                    ran = job_life.run(web, options.sequences)
                    sequences += ran.sequences
                    found = ", ".join(f"{count} {status}" for status, count in ran.ended.most_common())
                except Exception as error:  # whatever it raised is a violation, and the rest is still counted
                    broken += 1
                    found = "violated"
                    traceback.print_exception(error)
                note(
                    f"jobs in any order, {kind}",
                    str(options.sequences),
                    "",
                    f"{time.monotonic() - started:.1f}",
                    "",
                    found,
                )
    Console(width=160).print(table)
    print(
        json.dumps(
            {
                "bad_inputs": len(verdicts),
                "clear": sum(one.is_clear for one in verdicts),
                "five_xx": sum(one.five_xx for one in verdicts),
                "mutants": tally.mutants,
                "disagreements": len(disagreements),
                "sequences": sequences,
                "tenant_cells": cells,
                "leaks": leaks,
                "violations": broken,
                "seed": options.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
