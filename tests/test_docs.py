"""The documents say what is there: settings, targets, commands, folders and links are looked up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cli.main import app
from core.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_every_setting_is_listed_with_its_default() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    listed = dict(re.findall(r"^\| `(ATTUNE_\w+)` \| (?:`(.*?)`)? *\|", page, re.MULTILINE))
    plain = {
        f"{PREFIX}{name.upper()}": "" if field.default_factory or field.default in ("", None) else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert listed == plain


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "attune " in line])
def test_every_command_that_is_shown_parses(line: str) -> None:
    words = line.partition("#")[0].split()
    if words[0] != "attune":
        pytest.fail(f"not a line of the command line: {line}")
    command, words = typer.main.get_command(app), words[1:]
    while isinstance(command, typer.core.TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


def test_the_python_that_is_shown_compiles() -> None:
    assert [compile(block, "README.md", "exec") for block in blocks("python")]


def test_every_folder_has_a_line() -> None:
    tree = README.partition("## The tree")[2].partition("\n## ")[0]
    listed = {name for row in re.findall(r"^\| (.+?) \|", tree, re.MULTILINE) for name in re.findall(r"`(.+?)/`", row)}
    packages = {path.parent for path in ROOT.glob("*/__init__.py")}
    packages |= {path.parent for one in packages - {ROOT / "tests"} for path in one.rglob("__init__.py")}
    assert {str(path.relative_to(ROOT)) for path in packages} | {"docker", "docs"} <= listed
    assert all((ROOT / name).is_dir() for name in listed)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


SECURITY = (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([\w./-]+\.(?:py|yml)(?:::\w+)?)`", SECURITY))))
def test_what_a_claim_of_security_points_to_is_there(place: str) -> None:
    path, _, name = place.partition("::")
    assert (ROOT / path).is_file()
    assert f"def {name}(" in (ROOT / path).read_text() or not name
