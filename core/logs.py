"""Structured logs: one JSON object a line, or readable lines on a terminal.

Nothing secret is ever a field. Where an error's text brings one along all the same, the line is written without it.
"""

from __future__ import annotations

import json
import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from core.settings import Settings

HIDDEN = "[hidden]"
SHORTEST = 8  # characters; what is shorter is no secret, and stands in many words
# Keys, sign-ins, embed tokens and webhooks' signing secrets, as core.ids, sign_ins, embeds and signatures make them.
# What is shown of them elsewhere is shorter.
_OURS = re.compile(r"\b(sk-attune-|attune-(?:session|link|embed)-|whsec_)[A-Za-z0-9_.+/=-]{20,}")


def configure_logs(settings: Settings) -> None:
    """Set up structlog for this process, at the level of `settings` and without their secrets."""
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=0) if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _without(settings.secrets, renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper(), logging.INFO)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _without(secrets: tuple[str, ...], renderer: Processor) -> Processor:
    """`renderer`, whose line holds none of `secrets`, neither as they are nor as JSON writes them."""
    long = {secret for secret in secrets if len(secret) >= SHORTEST}
    forms = sorted(long | {json.dumps(secret)[1:-1] for secret in long}, key=len, reverse=True)

    def render(logger: WrappedLogger, name: str, event: EventDict) -> str:
        line = str(renderer(logger, name, event))
        for form in forms:
            line = line.replace(form, HIDDEN)
        return _OURS.sub(rf"\1{HIDDEN}", line)

    return render
