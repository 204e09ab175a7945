"""What one operation answers, given to the others, under schemathesis; and that its parts leave nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.fuzz import EXAMPLES, PARTS, fuzz, operations, passed

# Chains would delete what they have just made, and the configuration leads these elsewhere: never to the run's own
REDIRECTED = ("erase_project", "revoke_key")


@pytest.mark.timeout(1200)
def test_no_chain_of_requests_finds_a_fault(tmp_path: Path) -> None:
    left_out = [argument for name in REDIRECTED for argument in ("--exclude-operation-id", name)]
    said = passed(fuzz(tmp_path, EXAMPLES, "--phases", "stateful", *left_out))
    chains = re.search(r"Scenarios:\s+(\d+)", said)
    assert chains is not None, said[-5000:]
    assert int(chains[1]) >= EXAMPLES
    links = re.search(r"API Links:\s+(\d+) covered", said)
    assert links is not None, said[-5000:]
    assert int(links[1]) > 0, "nothing was handed on"


def test_every_operation_is_in_one_part() -> None:
    tags = [tag for part in PARTS.values() for tag in part]
    assert len(tags) == len(set(tags))
    assert all(len(mine) == 1 and mine <= set(tags) for mine in operations())
