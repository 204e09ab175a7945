"""A job for another site: a link that shows it, and nothing else, to whoever has it, until its time is over."""

from __future__ import annotations

from api.dashboard.blocks import button, copyable, notice, refusals_in, tag, text
from api.dashboard.dialogs import dialog
from api.dashboard.fields import choice_field
from api.dashboard.rest import in_path
from api.dashboard.visit import Visit

DAY_S = 86_400
LASTING = tuple(
    (str(days * DAY_S), words) for days, words in ((1, "A day"), (7, "A week"), (30, "30 days"), (366, "A year"))
)
WORDS = (
    "Whoever has the link sees this job's progress, curves and events, and nothing else. It ends at its time, or when "
    "your key is revoked. Frames are shown in the sites that an operator names in ATTUNE_EMBED_ORIGINS."
)


def offer_embed(visit: Visit, job_id: str, address: str) -> None:
    """`address`: of the service, as whoever looks reaches it."""
    with dialog("Embed this job", is_wide=True) as close:
        text("p", WORDS, "quiet")
        lasts = choice_field("The link is good for", LASTING, value=str(30 * DAY_S))
        made = tag("div", "stack").props('aria-live="polite"')

        async def make() -> None:
            made.clear()
            with refusals_in(made):
                token = await visit.rest.post(
                    f"/v1/attune/fine_tuning/jobs/{in_path(job_id)}/embed_tokens", {"expires_in_s": int(lasts.value)}
                )
                with made:
                    notice("Made. It is not kept here: copy it now, or make another later.", "good")
                    copyable(f"{address}{token['path']}", "Link")
                    copyable(_frame(f"{address}{token['path']}"), "HTML for a page")

        with tag("div", "row"):
            button("Make the link", make, kind="primary")
            button("Close", close)


def _frame(url: str) -> str:
    return f'<iframe src="{url}" title="Training" width="640" height="480" style="border: 0"></iframe>'
