"""An example as it is trained: the string the model sees, token by token, supervised or context.

Not by colour alone: what is supervised is underlined and bold for the eye, and named before each piece for the ear.
"""

from __future__ import annotations

from html import escape

from nicegui import ui

from api.dashboard.blocks import copyable, facts, tag, text
from api.dashboard.rest import Json

SEEN = {
    "\n": '<span class="unseen" aria-hidden="true">↵</span>\n',
    "\t": '<span class="unseen" aria-hidden="true">⇥</span>\t',
}
LABELS = {"preferred": "Preferred answer", "non_preferred": "Other answer"}


def legend() -> None:
    with tag("p", "row small"):
        with tag("span", "legend"):
            text("span", "supervised", "piece supervised")
            text("span", "what the model learns to say")
        with tag("span", "legend"):
            text("span", "context", "piece context")
            text("span", "what it reads, and is not trained on")


def show_sequence(sequence: Json) -> None:
    if sequence["label"] is not None:
        text("h3", LABELS[sequence["label"]])
    count, supervised = sequence["token_count"], sequence["supervised_count"]
    share = f" ({supervised / count:.0%})" if count else ""
    facts([("Tokens", f"{count:,}"), ("Supervised", f"{supervised:,}{share}"), ("Context", f"{count - supervised:,}")])
    with tag("div", "tokens").props('tabindex="0" role="region"') as region:
        region.props["aria-label"] = "The example as it is trained"
        ui.html(_marked(sequence), sanitize=False, tag="div")
    listed = len(sequence["tokens"])
    if listed < count:
        text("p", f"The first {listed:,} tokens are shown.", "quiet small")
    with tag("details", "fold"):
        text("summary", "The very string the model sees")
        with tag("div", "wrapped"):
            copyable(sequence["text"], "The string the model sees")


def _marked(sequence: Json) -> str:
    """Every text of a user's goes through `escape`; the tags are ours."""
    tokens = iter(sequence["tokens"])
    made: list[str] = []
    for piece in sequence["pieces"]:
        kind = "supervised" if piece["supervised"] else "context"
        made.append(f'<span class="piece {kind}"><span class="sr-only"> {kind.capitalize()}: </span>')
        for _ in range(piece["tokens"]):
            token = next(tokens, None)
            if token is None:
                break
            shown = "".join(SEEN.get(character, escape(character)) for character in token["text"])
            made.append(f'<span class="token" title="{token["id"]}">{shown}</span>')
        made.append("</span>")
    return "".join(made)
