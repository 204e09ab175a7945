"""Lines of training files, good and faulty, and what a `Checker` makes of them."""

from __future__ import annotations

from core.data.examples import (
    Checker,
    Summary,
)

USER = '{"role":"user","content":"Hi"}'
GOOD = '{"messages":[' + USER + ',{"role":"assistant","content":"Hello"}]}'


def check(data: bytes | str, chunk: int = 0, **options: int) -> Summary:
    data = data.encode() if isinstance(data, str) else data
    checker = Checker(**options)
    for start in range(0, len(data), chunk or max(1, len(data))):
        checker.feed(data[start : start + chunk] if chunk else data)
    return checker.finish()


def answer(text: str = '"content":"Hello"', user: str = USER) -> str:
    return '{"messages":[' + user + ',{"role":"assistant",' + text + "}]}"


MESSAGES = "messages[1]"
SHAPES = [
    ("{}", "missing_messages", "messages"),
    ('{"conversations":[{"from":"human","value":"Hi"}]}', "missing_messages", "messages"),
    ('{"prompt":"a"}', "missing_field", "completion"),
    ('{"completion":"a"}', "missing_field", "prompt"),
    ('{"prompt":1,"completion":"a"}', "wrong_type", "prompt"),
    ('{"prompt":"a","completion":""}', "empty_content", "completion"),
    ('{"text":["a"]}', "wrong_type", "text"),
    ('{"text":""}', "empty_content", "text"),
    ('{"prompt":"a","chosen":"b","rejected":"c"}', "missing_field", "completion"),
    ('{"chosen":[],"rejected":[]}', "missing_messages", "messages"),
    ('{"messages":[]}', "wrong_type", "messages"),
    ('{"messages":"Hi"}', "wrong_type", "messages"),
    ('{"messages":["Hi"]}', "wrong_type", "messages[0]"),
    ('{"messages":[{"from":"human","value":"Hi"}]}', "unknown_role", "messages[0].role"),
    (answer(user='{"role":"human","content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":null,"content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":"function","name":"f","content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":"user"}'), "missing_content", "messages[0].content"),
    (answer(user='{"role":"user","content":null}'), "missing_content", "messages[0].content"),
    (answer(user='{"role":"user","content":3}'), "wrong_type", "messages[0].content"),
    (
        answer(user='{"role":"user","content":[{"type":"image_url","image_url":{}}]}'),
        "unsupported_content",
        "messages[0].content[0]",
    ),
    (answer(user='{"role":"user","content":["Hi"]}'), "unsupported_content", "messages[0].content[0]"),
    (answer(user='{"role":"user","content":"Hi","weight":0}'), "extra_weight", "messages[0].weight"),
    (answer(user='{"role":"user","content":"Hi","name":7}'), "wrong_type", "messages[0].name"),
    (answer(user='{"role":"user","content":"Hi","tool_calls":[1]}'), "unknown_field", "messages[0].tool_calls"),
    (answer(user='{"role":"user","content":"Hi","tool_call_id":"x"}'), "unknown_field", "messages[0].tool_call_id"),
    (answer('"content":null'), "missing_content", f"{MESSAGES}.content"),
    (answer('"content":"  "'), "empty_content", f"{MESSAGES}.content"),
    (answer('"content":"Hello","weight":2'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":true'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":"1"'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":0.5'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weigth":0'), "unknown_field", f"{MESSAGES}.weigth"),
    (answer('"content":"Hello","refusal":"No."'), "unknown_field", f"{MESSAGES}.refusal"),
    (answer('"content":"Hello","weight":0'), "no_supervised_tokens", "messages"),
    (answer('"tool_calls":"f()"'), "wrong_type", f"{MESSAGES}.tool_calls"),
    (answer('"tool_calls":[{"name":"f","arguments":"{}"}]'), "invalid_tool_call", f"{MESSAGES}.tool_calls[0]"),
    (
        answer('"tool_calls":[{"function":{"name":"f","arguments":"nothing"}}]'),
        "invalid_tool_call",
        f"{MESSAGES}.tool_calls[0].function.arguments",
    ),
    (
        answer('"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":1,\\"a\\":2}"}}]'),
        "invalid_tool_call",
        f"{MESSAGES}.tool_calls[0].function.arguments",
    ),
    (
        answer('"tool_calls":[{"id":1,"function":{"name":"f","arguments":{}}}]'),
        "wrong_type",
        f"{MESSAGES}.tool_calls[0].id",
    ),
    ('{"messages":[' + USER + "]}", "no_assistant_message", "messages"),
    (
        '{"messages":[' + USER + ',{"role":"assistant","content":"a"},' + USER + "]}",
        "last_message_not_assistant",
        "messages[2].role",
    ),
    (GOOD[:-1] + ',"functions":[{}]}', "deprecated_field", "functions"),
    (GOOD[:-1] + ',"tools":{}}', "wrong_type", "tools"),
    (GOOD[:-1] + ',"tools":[{"name":"f"}]}', "invalid_tool", "tools[0]"),
    (GOOD[:-1] + ',"parallel_tool_calls":"yes"}', "wrong_type", "parallel_tool_calls"),
]
