"""Bad inputs 59 to 84: jobs, webhooks, keys, pages and questions that must not be taken as they are."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.api.place import BASE, examples
from tests.api.receiver import endless, status
from tests.fuzz.bad_files import SIZE_S, Case, Send
from tests.fuzz.subject import Answer, Subject

JOBS = "/v1/fine_tuning/jobs"
ENDPOINTS = "/v1/webhook_endpoints"


def jobs(*fields: dict[str, Any], names: tuple[str, ...] = (), status: int | tuple[int, ...] = 400) -> Send:
    """Each is refused, and the message names what is wrong: `names`, or the first field."""

    def send(s: Subject) -> None:
        for given in fields:
            s.refused(s.job(**given), *(names or (next(iter(given)),)), status=status)

    return send


def hyper(name: str, *values: object) -> Send:
    def send(s: Subject) -> None:
        for value in values:
            s.refused(s.job(hyperparameters={name: value}), f"hyperparameters.{name}")

    return send


def ours(path: str, *values: object) -> Send:
    """A choice of `attune`, by its dotted path."""

    def send(s: Subject) -> None:
        for value in values:
            nested: object = value
            for step in reversed(path.split(".")):
                nested = {step: nested}
            s.refused(s.job(attune=nested), path.split(".")[-1])

    return send


def learning_rates(s: Subject) -> None:
    hyper("learning_rate_multiplier", 0, -1, 1e308, "auto ", True)(s)
    s.refused(s.job(hyperparameters={"learning_rate_multiplier": math.nan}))


def long_names(s: Subject) -> None:
    s.refused(s.job(model="m" * 2**20), "1 MiB", status=413)
    s.refused(s.job(model="m" * 1000), "model", "256")


def other_files(s: Subject) -> None:
    s.refused(s.job(training_file=s.foreign["file"]), "training_file", status=404)
    foreign = s.job(training_file=s.foreign["file"]).body.replace(s.foreign["file"].encode(), b"?")
    unknown = s.foreign["file"][:-4] + "0000"
    s.holds(s.job(training_file=unknown).body.replace(unknown.encode(), b"?") == foreign, "a foreign id shows")


def unfit_files(s: Subject) -> None:
    data = s.accepted(s.upload(examples(12), purpose="user_data"))
    s.refused(s.job(training_file=data["id"]), "training_file", "user_data")
    gone = s.mine.upload()
    s.accepted(s.call("DELETE", f"/v1/files/{gone}"))
    s.refused(s.job(training_file=gone), "training_file", status=404)
    s.refused(s.job(validation_file="file-none"), "validation_file", status=404)


def suffixes(s: Subject) -> None:
    s.refused(s.job(suffix="x" * 65), "suffix", "64")
    s.refused(s.job(suffix=""), "suffix")
    for odd in ("🎉", "../x", "a\"b'c", "a b/c"):
        job = s.accepted(s.job(suffix=odd))
        s.holds(job.get("user_provided_suffix") == odd, f"{odd!r} is not echoed")


def metadata(s: Subject) -> None:
    s.refused(s.job(metadata={str(n): "x" for n in range(17)}), "metadata", "16")
    s.refused(s.job(metadata={"a": "x" * 513}), "metadata", "512")
    s.refused(s.job(metadata={"a" * 65: "x"}), "64")
    s.refused(s.job(metadata={"a": {"b": "c"}}), "metadata")


def unknown_fields(s: Subject) -> None:
    """Above it is OpenAI's affair and answered with a warning; within `attune` it is refused."""
    job = s.accepted(s.job(nonsense=1))
    events = s.accepted(s.call("GET", f"{JOBS}/{job.get('id')}/events"))
    warned = [event for event in events.get("data", []) if event["level"] == "warn" and "nonsense" in event["message"]]
    s.holds(len(warned) == 1, "no warning names the ignored field")
    s.refused(s.job(attune={"nonsense": 1}), "attune.nonsense")


def bodies(s: Subject) -> None:
    kind = {"Content-Type": "application/json"}
    for body in (b"[]", b'"x"', b"7", b"null", b"", b"{", b'{"model":', b"\xff", b"[" * 100_000):
        s.refused(s.call("POST", JOBS, content=body, headers=kind))
    s.refused(s.call("POST", JOBS, content=b"a" * 20_000_000, headers=kind), "1 MiB", status=413)
    good = json.dumps({"model": BASE, "training_file": s.training_file}).encode()
    s.refused(s.call("POST", JOBS, content=good, headers={"Content-Type": "text/plain"}), "Content-Type")


def repeated(s: Subject) -> None:
    def ask(key: str, **fields: Any) -> Answer:
        body = {"model": BASE, "training_file": s.training_file, **fields}
        return s.call("POST", JOBS, json=body, headers={"Idempotency-Key": key})

    for key in ("", "k" * 256):
        s.refused(ask(key), "Idempotency-Key")
    s.unreadable(ask("a\x01b"))
    s.accepted(ask("once", seed=1))
    s.refused(ask("once", seed=2), "Idempotency-Key", status=422)
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: ask("together", seed=3), range(20)))
    found = {s.accepted(answer).get("id") for answer in made}
    s.holds(len(found) == 1, f"20 calls with one key made {len(found)} jobs")


def hooks(*urls: str) -> Send:
    def send(s: Subject) -> None:
        for url in urls:
            body = {"name": "x", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
            s.refused(s.post(ENDPOINTS, body), "url")

    return send


def inside_hooks(s: Subject) -> None:
    hooks(*INSIDE)(s)
    # while an operator allows some place inside, a name is judged when it is resolved: at each sending
    for url in (f"http://localhost:{urlsplit(s.inside.url).port}/", "http://public.test:22/"):
        s.refused(delivered(s, url), "cannot receive webhooks")
    s.holds(not s.inside.received, "an inside address was reached")


def delivered(s: Subject, url: str) -> Answer:
    """What a test of a webhook at `url` comes to."""
    body = {"name": "x", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
    made = s.accepted(s.post(ENDPOINTS, body))
    return s.post(f"{ENDPOINTS}/{made.get('id')}/test", {"event_type": "fine_tuning.job.succeeded"})


def rebinding(s: Subject) -> None:
    """Asked once for each sending; what was found is judged, and connected to."""
    url = f"http://rebinding.test:{urlsplit(s.inside.url).port}/rebinding"
    s.accepted(delivered(s, url))
    s.refused(delivered(s, url), "127.0.0.1")
    s.holds(len(s.receiver.at("/rebinding")) == 1, "the allowed address was not reached")
    s.holds(not s.inside.received, "an inside address was reached")


def redirected(s: Subject) -> None:
    s.receiver.answers["/away"] = status(302, Location=f"{s.inside.url}/stolen")
    shown = s.accepted(delivered(s, f"{s.receiver.url}/away"))
    s.holds(shown.get("status_code") == 302, f"is shown as {shown.get('status_code')}")
    s.holds(len(s.receiver.at("/away")) == 1, "the receiver was not asked")
    s.holds(not s.inside.received, "a redirect was followed inside")


def _large(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(10 * 1024 * 1024))
    request.end_headers()
    request.wfile.write(bytes(10 * 1024 * 1024))


def long_answers(s: Subject) -> None:
    s.receiver.answers.update({"/large": _large, "/endless": endless})
    for path in ("/large", "/endless"):
        s.accepted(delivered(s, s.receiver.url + path))


def keys(s: Subject) -> None:
    good = s.mine.key
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    revoked = s.place.key(s.mine.project_id, name="to be revoked")
    with s.place.operator as http:
        rows = http.get("/v1/attune/keys", params={"project_id": s.mine.project_id}).json()["data"]
        http.delete(f"/v1/attune/keys/{next(row['id'] for row in rows if row['name'] == 'to be revoked')}")
    given: list[list[tuple[str, str]]] = [
        [], [("Authorization", good)], [("Authorization", f"Basic {good}")], [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {wrong}")], [("Authorization", f"Bearer {revoked}")],
        [("Authorization", "Bearer " + "k" * 8000)], [("Authorization", f"Bearer {good}")] * 2,
    ]  # fmt: skip
    with s.place.client() as http:
        for headers in given:
            answer = http.get("/v1/models", headers=headers, params={"api_key": good})
            s.refused(Answer(answer.status_code, dict(answer.headers), answer.content), status=401)
            s.holds(good not in answer.text, "the key is repeated")


def pages(s: Subject) -> None:
    for path in (JOBS, "/v1/files"):
        for limit in (0, -1, 10_001, "x", "1e3"):
            s.refused(s.call("GET", path, params={"limit": limit}), "limit")
        for after in ("nonsense", "x" * 129, s.foreign["job" if path == JOBS else "file"]):
            s.refused(s.call("GET", path, params={"after": after}), "after")
    s.refused(s.call("GET", f"{JOBS}?after=%00"), "NUL")
    s.unreadable(s.wire((), line=f"GET {JOBS}?after={'a' * 2**20}"))


def questions(s: Subject) -> None:
    before = len(s.generated)
    for field, values in {
        "max_tokens": (-1, 0, 10**9, "x", True),
        "max_completion_tokens": (-1, 10**9),
        "n": (0, 10**6),
        "stop": (["x"] * 1000, 7, ["x" * 10_000]),
        "temperature": (-1, 3, "hot"),
        "top_p": (0, 2),
        "logit_bias": ({str(n): 1 for n in range(60_000)}, {"1": 200}, 7),
    }.items():
        for value in values:
            s.refused(s.chat(**{field: value}), field)
    s.refused(s.chat(temperature=math.nan))
    s.refused(s.chat(logit_bias={str(n): 1 for n in range(150_000)}), "1 MiB", status=413)
    s.refused(s.post("/v1/completions", {"model": BASE, "prompt": "x", "n": 10**6}), "n")
    s.holds(len(s.generated) == before, "a server was asked all the same")


def templates(s: Subject) -> None:
    before = len(s.generated)
    for field, value in {
        "chat_template": "{{ ''.__class__.__mro__ }}",
        "chat_template_kwargs": {"x": "y" * 1000},
        "mm_processor_kwargs": {},
        "guided_regex": "(a+)+$",
        "guided_grammar": "root ::= root",
        "structured_outputs": {"regex": "(a+)+$"},
    }.items():
        s.refused(s.chat(**{field: value}), field)
        s.refused(s.post("/v1/completions", {"model": BASE, "prompt": "x", field: value}), field)
    s.holds(len(s.generated) == before, "a server was asked all the same")


def other_models(s: Subject) -> None:
    foreign = s.foreign["model"]
    for model in (foreign, "/etc/passwd", "../" + foreign, f"{BASE}/../x", "m" * 257, ""):
        s.refused(s.chat(model=model), "model", status=(400, 404))
    unknown = foreign[:-4] + "0000"
    answers = [s.chat(model=model).body.replace(model.encode(), b"?") for model in (foreign, unknown)]
    s.holds(answers[0] == answers[1], "a foreign model shows")
    s.refused(s.job(model=foreign), "model", status=404)


SERVER_WRITES = [{name: "x"} for name in
                 ("status", "owner", "owner_id", "project_id", "epoch", "attempt", "fine_tuned_model")]  # fmt: skip
INSIDE = (
    "http://127.0.0.1/",
    "http://[::1]/",
    "http://0.0.0.0/",
    "http://169.254.169.254/latest",
    "http://10.0.0.1/",
    "http://100.64.0.1/",
    "http://[fd00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://user:pass@example.com/",
    "http://ex\u00e4mple.com/",
    "http://exa mple.com/",
    "http://example.com/#x",
)
CASES: list[Case] = [
    (59, "an unknown model", jobs({"model": "none"}, names=("model", "none"), status=404), 1),
    (60, "a path or URL as model", jobs(*[{"model": model} for model in
        ("/etc", "../", "file:///etc/passwd", "http://127.0.0.1/x", "tiny/base/../base")], status=404), 1),
    (61, "a model of 1 MiB", long_names, 1),
    (62, "another tenant's file", other_files, 1),
    (63, "files of another purpose, or deleted", unfit_files, 1),
    (64, "n_epochs", hyper("n_epochs", 0, -1, 10**9, "3", 2.5, True), 1),
    (65, "learning rate", learning_rates, 1),
    (66, "LoRA rank", ours("lora.rank", 0, 10**6, -1, "8"), 1),
    (67, "batch size", hyper("batch_size", 0, 10**9, -1), 1),
    (68, "seed", jobs({"seed": 2**63}, {"seed": -1}, {"seed": 1.5}, {"seed": True}), 1),
    (69, "suffixes", suffixes, 1),
    (70, "metadata", metadata, 1),
    (71, "unknown fields", unknown_fields, 1),
    (72, "fields that the server writes", jobs(*SERVER_WRITES), 1),
    (73, "bodies that are no object", bodies, SIZE_S),
    (74, "Idempotency-Key", repeated, 1),
    (75, "webhooks inside", inside_hooks, 1),
    (76, "a name that moves inside", rebinding, 1),
    (77, "a redirect inside", redirected, 1),
    (78, "webhooks of another scheme", hooks("file:///etc/passwd", "gopher://x/", "ftp://example.com/", "x", ""), 1),
    (79, "long and endless answers to a webhook", long_answers, SIZE_S),
    (80, "keys", keys, 1),
    (81, "pages", pages, 1),
    (82, "how to generate", questions, 1),
    (83, "templates and expressions of one's own", templates, 1),
    (84, "another tenant's model", other_models, 1),
]  # fmt: skip
