"""`make test-clients`: the contract's suite against a live service, by three generations of the official client.

Then a customer's program, by LangChain and LiteLLM. Prints a table of the contract's points against the clients,
and ends in one line of JSON. It measures, so failures are figures and no exit code; `make test` fails by the suite.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from tests.contract.place import BASE
from tests.contract.service import contract_service
from tests.live import ROOT, Live

ENVIRONMENTS = ROOT / ".venv-clients"
GENERATIONS = {"1": "openai>=1,<2", "2.34.0": "openai==2.34.0", "3": "openai>=3,<4"}
AT_ONCE = 2  # suites; each waits for its service, or its service for it
CUSTOMER = ROOT / "tests/e2e/customer.py"
POINTS = [f"C{number:02}" for number in range(1, 41)]
Outcome = Literal["passed", "failed", "skipped"]
Results = dict[str, list[Outcome]]  # by the contract's point, such as C07
_TEST = re.compile(r"test_(c\d\d)_")


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of a virtual environment that holds nothing but `requirements`, in their newest versions."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder)
    # Our own pip, and nothing compiled ahead: most of an environment's time otherwise
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-compile", "--upgrade"]
    subprocess.run([*install, *requirements], check=True)
    return python


def version(python: Path) -> str:
    shown = subprocess.run([python, "-c", "import openai; print(openai.__version__)"], capture_output=True, check=True)
    return shown.stdout.decode().strip()


def run_suite(python: Path, live: Live, report: Path, generation: str) -> None:
    """pytest's own words go to our stderr; what counts is in `report`."""
    command = [python, "-m", "pytest", "tests/contract", "--confcutdir", "tests/contract", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=-q", "-W", "ignore::pytest.PytestConfigWarning"]  # pytest alone knows no timeout
    subprocess.run(
        [*command, f"--junitxml={report}"],
        cwd=ROOT,
        check=False,
        stdout=sys.stderr,
        env={
            **os.environ,
            "ATTUNE_URL": live.address,
            "ATTUNE_API_KEY": live.key,
            "ATTUNE_CLIENT": generation,
            "NO_PROXY": "127.0.0.1,localhost",
        },
    )


def run_customer(installed: Future[Path], folder: Path) -> Outcome:
    """The program as its author would start it, against a service of its own."""
    python = installed.result()
    with contract_service(folder) as live:
        done = subprocess.run(
            [python, CUSTOMER, BASE],
            check=False,
            stdout=sys.stderr,
            timeout=300,
            env={
                **os.environ,
                "OPENAI_BASE_URL": f"{live.address}/v1",
                "OPENAI_API_KEY": live.key,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
                "NO_PROXY": "127.0.0.1,localhost",
            },
        )
    return "passed" if done.returncode == 0 else "failed"


def read(report: Path) -> Results:
    """What became of each test that names a point. Raises RuntimeError for a run that did not get to its tests."""
    found: Results = defaultdict(list)
    # pytest wrote it a moment ago
    for case in ElementTree.parse(report).iter("testcase"):
        name = _TEST.match(case.get("name", ""))
        if name is None:
            raise RuntimeError(f"not a test of the contract: {case.get('classname')} {case.get('name')}")
        parts = {child.tag for child in case}
        outcome: Outcome = "failed" if parts & {"failure", "error"} else "skipped" if "skipped" in parts else "passed"
        found[name[1].upper()].append(outcome)
    return found


def table(results: dict[str, Results]) -> Table:
    made = Table(title="The contract, by generation of the client")
    made.add_column("")
    for client in results:
        made.add_column(client, justify="right")
    for point in POINTS:
        made.add_row(point, *(_cell(each.get(point, [])) for each in results.values()))
    return made


def _cell(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return "MISSING"
    passed = outcomes.count("passed")
    return f"{passed} passed" if passed == len(outcomes) else f"{passed} of {len(outcomes)} PASSED"


def run_generation(installed: Future[Path], generation: str, folder: Path) -> tuple[str, Results]:
    """The client's name and version, and what became of the suite against a service of its own."""
    python, report = installed.result(), folder / "report.xml"
    started = time.monotonic()
    with contract_service(folder) as live:
        run_suite(python, live, report, generation)
    client = f"openai {version(python)}"
    print(f"{client}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return client, read(report)


def main() -> None:
    with (
        ThreadPoolExecutor(max_workers=1) as installing,  # the next environment, while those before are at work
        ThreadPoolExecutor(max_workers=AT_ONCE) as running,
        tempfile.TemporaryDirectory(prefix="attune-clients-") as folder,
    ):
        coming = {name: installing.submit(environment, name, what, "pytest") for name, what in GENERATIONS.items()}
        customers = installing.submit(environment, "customer", "langchain-openai", "litellm")
        suites = []
        for name, installed in coming.items():
            (own := Path(folder) / name).mkdir()
            suites.append(running.submit(run_generation, installed, name, own))
        (own := Path(folder) / "customer").mkdir()
        ran = running.submit(run_customer, customers, own)
        results = dict(suite.result() for suite in suites)
        customer = ran.result()
    Console().print(table(results))
    Console().print(f"LangChain and LiteLLM ({CUSTOMER.relative_to(ROOT)}): {customer}")
    outcomes = [outcome for each in results.values() for tests in each.values() for outcome in tests]
    outcomes.append(customer)
    counts = {kind: outcomes.count(kind) for kind in ("passed", "failed", "skipped")}
    # a point that nothing was said of has failed
    counts["failed"] += sum(point not in each for point in POINTS for each in results.values())
    print(json.dumps({"clients": list(results), **counts}))


if __name__ == "__main__":
    main()
