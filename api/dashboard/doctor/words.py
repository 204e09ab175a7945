"""The doctor's codes and names in words for people; what has none is shown as the API names it."""

from __future__ import annotations

# Each: label, and when to choose it
SHAPES: dict[str, str] = {
    "chat": "A question and its answer",
    "completion": "A prompt and its completion",
    "messages": "Messages (OpenAI)",
    "sharegpt": "Conversations (ShareGPT)",
    "alpaca": "Instruction and output (Alpaca)",
    "preference": "Two answers, one preferred (DPO)",
    "text": "Plain text",
}
# shape -> the parts a column is chosen for, as core's contract names them: (part, label, whether it has to be there)
PARTS: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "chat": (("system", "System", False), ("user", "User", True), ("assistant", "Assistant", True)),
    "completion": (("prompt", "Prompt", True), ("completion", "Completion", True)),
    "messages": (("messages", "Messages", True), ("tools", "Tools", False)),
    "sharegpt": (("system", "System", False), ("conversations", "Conversations", True), ("tools", "Tools", False)),
    "alpaca": (
        ("system", "System", False),
        ("instruction", "Instruction", True),
        ("input", "Input", False),
        ("output", "Output", True),
        ("history", "History", False),
    ),
    "preference": (
        ("system", "System", False),
        ("prompt", "Prompt", False),
        ("chosen", "Preferred answer", True),
        ("rejected", "Other answer", True),
    ),
    "text": (("text", "Text", True),),
}
WITH_SYSTEM_TEXT = ("chat", "alpaca", "sharegpt", "preference")
FORMATS = {
    "jsonl": "JSONL",
    "json": "JSON",
    "csv": "CSV",
    "tsv": "TSV",
    "xlsx": "Excel",
    "parquet": "Parquet",
    "text": "Plain text",
}
DELIMITERS = {",": "Comma", ";": "Semicolon", "\t": "Tab", "|": "Bar", ":": "Colon"}

STAGES = {
    "waiting": "Waiting for its turn",
    "reading": "Reading the file",
    "validation": "Reading the validation file",
    "examples": "Looking at every example",
    "duplicates": "Looking for repeats",
    "writing": "Writing the new file",
    "done": "Done",
}

# severity -> class of its state, one of it, several of it
SEVERITIES = {
    "error": ("bad", "error", "errors"),
    "warning": ("waiting", "warning", "warnings"),
    "hint": ("off", "hint", "hints"),
}

# What a report looks for, in the order shown; a code that stands nowhere is one of form
CHECKS: dict[str, tuple[str, ...]] = {
    "Form of the lines": (),
    "Turns": (
        "system_not_first",
        "roles_do_not_alternate",
        "starts_with_assistant",
        "empty_turn",
        "identical_turns",
        "last_message_not_assistant",
        "surrounding_whitespace",
    ),
    "Fit for the model": (
        "too_long",
        "no_supervised_tokens",
        "end_token_missing",
        "template_refuses_example",
        "template_refused",
        "tool_calls_not_shown",
        "special_token_in_text",
    ),
    "Repeats": ("duplicate_example", "near_duplicate", "contradicting_answers", "not_all_compared"),
    "Overlap with validation": ("in_validation",),
    "Personal data": ("email_address", "phone_number", "card_number"),
    "Characters": ("control_characters", "damaged_encoding"),
    "Languages and lengths": ("unusual_language", "unusual_length"),
}
MODEL_CHECK, OVERLAP_CHECK, FORM_CHECK = "Fit for the model", "Overlap with validation", "Form of the lines"

TITLES = {
    "too_few_examples": "Too few examples",
    "unknown_role": "Roles with other names",
    "missing_messages": "No messages",
    "last_message_not_assistant": "Does not end with an answer",
    "empty_content": "Empty answers",
    "empty_turn": "Empty turns",
    "identical_turns": "A turn that repeats another",
    "duplicate_key": "A key that stands twice",
    "unknown_field": "Fields that an example has not",
    "ignored_field": "Fields that nothing reads",
    "wrong_method": "Not for this method",
    "mixed_kinds": "Kinds of examples mixed",
    "system_not_first": "System message not at the start",
    "roles_do_not_alternate": "Two turns of one role in a row",
    "starts_with_assistant": "Begins with the assistant",
    "surrounding_whitespace": "Blanks around a text",
    "duplicate_example": "The same example again",
    "near_duplicate": "Nearly the same example",
    "contradicting_answers": "One question, several answers",
    "in_validation": "Also in the validation file",
    "unusual_length": "A length that sticks out",
    "unusual_language": "A language that sticks out",
    "email_address": "E-mail addresses",
    "phone_number": "Phone numbers",
    "card_number": "Payment card numbers",
    "control_characters": "Invisible characters",
    "damaged_encoding": "Damaged characters",
    "special_token_in_text": "Control tokens in a text",
    "too_long": "Too long for the model",
    "no_supervised_tokens": "Nothing to train on",
    "end_token_missing": "Answers without an end token",
    "template_refuses_example": "Refused by the model's template",
    "tool_calls_not_shown": "Tool calls the template leaves out",
}

# In the order they are carried out: label, and what it does
REPAIRS: dict[str, tuple[str, str]] = {
    "rename_roles": ("Rename roles", "human, gpt, bot and the like become user and assistant."),
    "drop_unknown_fields": ("Remove unknown fields", "Fields that an example has not are taken out."),
    "remove_control_characters": ("Remove invisible characters", "Characters that nobody sees are taken out."),
    "trim_whitespace": ("Trim blanks", "Blanks around texts are removed."),
    "remove_special_tokens": ("Remove control tokens", "<|im_end|> and its like are taken out of texts."),
    "mask_personal_data": ("Mask personal data", "[EMAIL], [PHONE] and [CARD] in place of each."),
    "drop_empty_turns": ("Remove empty turns", "Turns without text are taken out."),
    "merge_turns": ("Merge turns", "Turns of one role in a row become one."),
    "end_with_assistant": ("End with the answer", "Turns behind the last answer are taken out."),
    "drop_faulty": ("Remove faulty examples", "Lines that still have an error are removed."),
    "drop_too_long": ("Remove what is too long", "Examples beyond the limit of the model are removed."),
    "drop_duplicates": ("Remove duplicates", "The first of equal examples is kept."),
    "drop_near_duplicates": ("Remove near-duplicates", "The first of examples that are nearly equal is kept."),
    "drop_validation_overlap": ("Remove the overlap", "Examples that are in the validation file are removed."),
}


def title(code: str) -> str:
    return TITLES.get(code, code.replace("_", " ").capitalize())


def counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def check_of(code: str) -> str:
    return next((name for name, codes in CHECKS.items() if code in codes), FORM_CHECK)
