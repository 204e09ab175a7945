"""Everything that is wrong with a file, in one pass over it: form, turns, texts, tokens, and what is there twice."""

from __future__ import annotations

from core.data.conversation import Conversation, Example, PreferencePair
from core.data.example_reader import Finding, read_line
from core.doctor import checks
from core.doctor.crowd import Crowd
from core.doctor.findings import Findings
from core.doctor.likeness import MAX_EXACT, MAX_NEAR, Nearness, key_of, question_of
from core.doctor.lines import Told, kind_of_example, lines_of, texts_of
from core.doctor.orders import Report
from core.doctor.tokens import Tokens
from core.planning.plan import MIN_EXAMPLES


def report(order: Report, told: Told) -> dict[str, object]:
    """The `result` of a report. Raises AttuneError (invalid_file_format) when the file is no JSONL."""
    return _Examination(order, told).result()


class _Examination:
    def __init__(self, order: Report, told: Told) -> None:
        self._order = order
        self._told = told
        self._findings = Findings()
        self._tokens = Tokens(order.base, order.max_tokens) if order.base else None
        self._crowd = Crowd()
        self._nearness = Nearness()
        self._validation = keys_of(order.validation, told) if order.validation else set[int]()
        self._seen: dict[int, int] = {}  # an example's key -> its line
        self._answers: dict[int, int] = {}  # its question's key -> the example's key
        self._kinds: dict[str, int] = {}
        self._turns: dict[str, int] = {}

    def result(self) -> dict[str, object]:
        begin = 0.1 if self._order.validation else 0.0
        lines = 0
        for number, line in lines_of(self._order.path, self._told, "examples", begin, 0.9):
            lines += 1
            example, findings = read_line(line, number)
            self._findings.extend(findings)
            if example is not None:
                self._add(example, number)
        examples = sum(self._kinds.values())
        self._whole(examples)
        self._told("duplicates", 0.9)
        for number, earlier in self._nearness.pairs():
            message = f"the example is nearly the one on line {earlier}; keep one, or make them differ"
            self._findings.add(Finding("near_duplicate", message, number, None, "warning"))
        self._findings.extend(self._crowd.findings())
        return {
            "lines": lines,
            "examples": examples,
            "kind": next(iter(self._kinds)) if len(self._kinds) == 1 else "mixed" if self._kinds else None,
            "verdict": self._findings.verdict(),
            **self._findings.described(),
            "turns": self._turns,
            **self._crowd.described(),
            "tokens": self._tokens.described() if self._tokens else None,
        }

    def _add(self, example: Example, line: int) -> None:
        kind = kind_of_example(example)
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if (kind == "preference") != (self._order.method == "dpo"):
            advice = "use the method dpo" if kind == "preference" else "give preference pairs, or use supervised"
            message = (
                f"the example is of the kind {kind}, and the method {self._order.method} does not take it; {advice}"
            )
            self._findings.add(Finding("wrong_method", message, line, None))
        self._findings.extend(checks.look(example, line))
        if self._tokens is not None:
            self._findings.extend(self._tokens.add(example, line))
        else:
            self._findings.extend(checks.known_tokens(example, line))
        if isinstance(example, Conversation | PreferencePair):
            for message in example.messages:
                self._turns[message.role] = self._turns.get(message.role, 0) + 1
        texts = list(texts_of(example))
        answers = " ".join(text for _, role, text in texts if role == "assistant")
        self._crowd.add(line, "\n".join(text for _, _, text in texts), answers)
        self._compare(example, line)

    def _compare(self, example: Example, line: int) -> None:
        key = key_of(example)
        if key in self._validation:
            message = "the example is in the validation file too, so that validation would flatter; remove it here"
            self._findings.add(Finding("in_validation", message, line, None, "warning"))
        if key in self._seen:
            message = f"the example is the same as on line {self._seen[key]}; keep one"
            self._findings.add(Finding("duplicate_example", message, line, None, "warning"))
            return
        if len(self._seen) < MAX_EXACT:
            self._seen[key] = line
            question = question_of(example)
            if question is not None and not isinstance(example, PreferencePair):
                if question in self._answers:
                    message = f"the same is asked on line {self._seen[self._answers[question]]}, and answered otherwise"
                    self._findings.add(Finding("contradicting_answers", message, line, None, "hint"))
                else:
                    self._answers[question] = key
        self._nearness.add(line, example)

    def _whole(self, examples: int) -> None:
        if examples < MIN_EXAMPLES:
            message = f"the file has {examples} examples, and a job takes {MIN_EXAMPLES} or more; add some"
            self._findings.add(Finding("too_few_examples", message, 0, None))
        if len(self._kinds) > 1:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._kinds.items())
            message = f"the file mixes kinds of examples ({kinds}); make a file of each"
            self._findings.add(Finding("mixed_kinds", message, 0, None, "warning"))
        if self._nearness.is_full or examples > MAX_EXACT:
            message = f"only the first {MAX_NEAR} examples were compared for being nearly the same"
            self._findings.add(Finding("not_all_compared", message, 0, None, "hint"))


def keys_of(path: str, told: Told) -> set[int]:
    """The keys of a validation file's examples, the first ones of a very large file."""
    keys: set[int] = set()
    for number, line in lines_of(path, told, "validation", 0.0, 0.1):
        example, _ = read_line(line, number)
        if example is not None and len(keys) < MAX_EXACT:
            keys.add(key_of(example))
    return keys
