"""What was found, bounded: the first of every code are kept, all of them are counted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from core.data.example_reader import Finding

MAX_FINDINGS = 100
RANKS = {"error": 0, "warning": 1, "hint": 2}
_REPAIRS: dict[str, tuple[str, ...]] = {
    "ignored_field": ("drop_unknown_fields",),
    "unknown_field": ("drop_unknown_fields", "drop_faulty"),
    "unknown_role": ("rename_roles", "drop_faulty"),
    "missing_messages": ("rename_roles", "drop_faulty"),
    "last_message_not_assistant": ("end_with_assistant", "drop_faulty"),
    "empty_content": ("drop_faulty",),
    "empty_turn": ("drop_empty_turns",),
    "roles_do_not_alternate": ("merge_turns",),
    "surrounding_whitespace": ("trim_whitespace",),
    "duplicate_example": ("drop_duplicates",),
    "near_duplicate": ("drop_near_duplicates",),
    "in_validation": ("drop_validation_overlap",),
    "email_address": ("mask_personal_data",),
    "phone_number": ("mask_personal_data",),
    "card_number": ("mask_personal_data",),
    "control_characters": ("remove_control_characters",),
    "null_character": ("drop_faulty",),
    "special_token_in_text": ("remove_special_tokens",),
    "too_long": ("drop_too_long",),
}
_WITHOUT_REPAIR = frozenset(
    (
        "too_few_examples", "wrong_method", "template_refused", "template_refuses_example", "tool_calls_not_shown",
        "end_token_missing", "invalid_json", "not_an_object",
    )
)  # fmt: skip


def repairs_of(code: str, severity: str) -> list[str]:
    if code in _REPAIRS:
        return list(_REPAIRS[code])
    return ["drop_faulty"] if severity == "error" and code not in _WITHOUT_REPAIR else []


def shown(finding: Finding) -> dict[str, object]:
    described: dict[str, object] = {**finding.as_dict()}
    described["line"] = finding.line or None
    described["repairs"] = repairs_of(finding.code, finding.severity)
    return described


class Findings:
    """Line 0 stands for what is true of the whole file."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._kept: dict[tuple[str, str], list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        key = (finding.code, finding.severity)
        self._counts[key] = self._counts.get(key, 0) + 1
        kept = self._kept.setdefault(key, [])
        if len(kept) < MAX_FINDINGS:
            kept.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.add(finding)

    def chosen(self) -> list[Finding]:
        """Up to 100: of every code its first ones in turn, errors before the rest."""
        ranked = sorted(self._kept, key=lambda key: RANKS[key[1]])
        rounds = zip_longest(*(self._kept[key] for key in ranked))
        first = [finding for round_ in rounds for finding in round_ if finding is not None][:MAX_FINDINGS]
        return sorted(first, key=lambda finding: (RANKS[finding.severity], finding.line))

    def verdict(self) -> str:
        severities = {severity for _, severity in self._counts}
        return "errors" if "error" in severities else "warnings" if "warning" in severities else "good"

    def described(self) -> dict[str, object]:
        counts = [
            {"code": code, "severity": severity, "count": count, "repairs": repairs_of(code, severity)}
            for (code, severity), count in self._counts.items()
        ]
        counts.sort(key=lambda entry: (RANKS[str(entry["severity"])], -int(str(entry["count"]))))
        return {"counts": counts, "findings": [shown(finding) for finding in self.chosen()]}
