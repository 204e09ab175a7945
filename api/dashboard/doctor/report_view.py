"""A file's report as people read it: the verdict first, what was looked for, then every finding with its line."""

from __future__ import annotations

from urllib.parse import urlencode

from api.dashboard.blocks import card, facts, link, notice, tag, text
from api.dashboard.doctor.bars import languages, lengths
from api.dashboard.doctor.words import (
    CHECKS,
    MODEL_CHECK,
    OVERLAP_CHECK,
    SEVERITIES,
    check_of,
    counted,
    title,
)
from api.dashboard.fields import Choices
from api.dashboard.rest import Json

ALL = "all"


def show_report(task: Json, *, may_write: bool) -> None:
    """`task`: a report that has succeeded."""
    request, result = task["request"], task["result"]
    with card():
        show_verdict(result)
        _show_ways(task, may_write=may_write)
        _show_facts(result)
    with card("What was looked for"):
        _show_checks(request, result)
    if result["findings"]:
        _Findings(task)
    with tag("div", "columns"):
        if result["tokens"] is not None:
            with card("Lengths", note=f"tokens of {result['tokens']['model']}"):
                lengths(result["tokens"], task["file_id"])
        if result["languages"] is not None:
            with card("Languages", note="of answers long enough to tell"):
                languages(result["languages"])


def show_verdict(result: Json) -> None:
    """In a sentence, with how much of each was found."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for entry in result["counts"]:
        counts[entry["severity"]] += entry["count"]
    found = ", ".join(
        counted(count, SEVERITIES[severity][1], SEVERITIES[severity][2]) for severity, count in counts.items() if count
    )
    if result["verdict"] == "errors":
        notice(f"This cannot be trained on as it is: {found}.", "error")
    elif result["verdict"] == "warnings":
        notice(f"This can be trained on, and would be better without what was found: {found}.", "warning")
    else:
        notice(f"This is good to train on{f': nothing but {found}' if found else '. Nothing was found'}.", "good")


def repairs_for(result: Json) -> list[str]:
    """What would mend the errors and warnings, each once: of several ways the first, which keeps the most."""
    chosen = [entry["repairs"][0] for entry in result["counts"] if entry["repairs"] and entry["severity"] != "hint"]
    return list(dict.fromkeys(chosen))


def _show_ways(task: Json, *, may_write: bool) -> None:
    if not may_write:
        return
    request, result = task["request"], task["result"]
    wanted = repairs_for(result)
    with tag("div", "row"):
        if wanted:
            query = _query(request, {"repairs": ",".join(wanted)})
            link(f"/data/{task['file_id']}/repair?{query}", "button primary", label="See the repairs")
        if result["verdict"] != "errors":
            query = urlencode(_given({"training_file": task["file_id"], **_of(request, "validation_file_id")}))
            label = "Train with this file"
            link(f"/new?{query}", "button plain" if wanted else "button primary", label=label)


def _of(request: Json, name: str) -> dict[str, str | None]:
    return {name.removesuffix("_id"): request.get(name)}


def _query(request: Json, more: dict[str, str]) -> str:
    return urlencode(_given({**_of(request, "model"), **_of(request, "validation_file_id"), **more}))


def _given(query: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


def _show_facts(result: Json) -> None:
    rows = [("Lines", f"{result['lines']:,}"), ("Examples", f"{result['examples']:,}")]
    rows += [(f"{role.capitalize()} turns", f"{count:,}") for role, count in result["turns"].items()]
    if (tokens := result["tokens"]) is not None:
        share = tokens["supervised"] / tokens["total"] if tokens["total"] else 0.0
        rows += [("Tokens", f"{tokens['total']:,}"), ("Trained on", f"{tokens['supervised']:,} ({share:.0%})")]
    else:
        rows.append(("Characters", f"{result['characters']['total']:,}"))
    facts(rows)


def _show_checks(request: Json, result: Json) -> None:
    """Also what is in order is said, and what could not be looked at."""
    found: dict[str, list[Json]] = {name: [] for name in CHECKS}
    for entry in result["counts"]:
        found[check_of(entry["code"])].append(entry)
    with tag("ul", "checked"):
        for name, entries in found.items():
            with tag("li", "checked-row"):
                text("span", name, "strong")
                if name == OVERLAP_CHECK and request.get("validation_file_id") is None:
                    text("span", "Not looked at", "state off")
                    text("span", "Check it with a validation file to find examples that are in both.", "small quiet")
                elif name == MODEL_CHECK and result["tokens"] is None and not entries:
                    text("span", "Not looked at", "state off")
                    text("span", "Check it with a base model to count tokens and find what is too long.", "small quiet")
                elif not entries:
                    text("span", "Nothing found", "state good")
                else:
                    _show_entries(entries)


def _show_entries(entries: list[Json]) -> None:
    kind, one, several = SEVERITIES[entries[0]["severity"]]  # the gravest is the first
    total = sum(entry["count"] for entry in entries if entry["severity"] == entries[0]["severity"])
    text("span", counted(total, one, several), f"state {kind}")
    words = ", ".join(f"{title(entry['code'])} ({entry['count']:,})" for entry in entries)
    text("span", words, "small quiet")


class _Findings:
    """The findings that the report names, of one severity or all."""

    def __init__(self, task: Json) -> None:
        self._file_id = task["file_id"]
        self._model = task["request"].get("model")
        self._findings: list[Json] = task["result"]["findings"]
        self._wanted = ALL
        total = sum(entry["count"] for entry in task["result"]["counts"])
        shown = len(self._findings)
        note = f"{shown}" if shown == total else f"{shown} of {total:,}, the first of every kind"
        with card("What was found", note=note):
            severities = [name for name in SEVERITIES if any(one["severity"] == name for one in self._findings)]
            if len(severities) > 1:
                options = [(ALL, "All"), *((name, SEVERITIES[name][2].capitalize()) for name in severities)]
                Choices("Show", options, self._want)
            self._place = tag("div")
            self._show()

    def _want(self, name: str) -> None:
        self._wanted = name
        self._show()

    def _show(self) -> None:
        self._place.clear()
        with self._place, tag("ul", "found"):
            for finding in self._findings:
                if self._wanted in (ALL, finding["severity"]):
                    self._finding(finding)

    def _finding(self, finding: Json) -> None:
        kind, one, _ = SEVERITIES[finding["severity"]]
        with tag("li", "found-row"):
            text("span", one.capitalize(), f"state {kind}")
            with tag("div", "found-words"):
                text("h3", title(finding["code"]))
                text("p", sentence(finding["message"]))
            with tag("div", "found-place small quiet"):
                if finding["line"] is not None:
                    query = urlencode(_given({"line": str(finding["line"]), "model": self._model}))
                    link(f"/data/{self._file_id}/trained?{query}", "number", label=f"Line {finding['line']:,}")
                else:
                    text("span", "The whole file")
                if finding["field"]:
                    text("code", finding["field"], "break")


def sentence(message: str) -> str:
    return message[:1].upper() + message[1:]
