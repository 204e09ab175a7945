"""Dialogs: a question before what cannot be undone, and a secret that is shown once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard.blocks import button, copyable, notice, tag, text


@contextmanager
def dialog(title: str, *, persistent: bool = False, is_wide: bool = False) -> Generator[Callable[[], None]]:
    """Yields what closes it; once closed, nothing of it is left in the page."""
    opened = ui.dialog().props("persistent" if persistent else "")
    opened.props["aria-label"] = title

    def close() -> None:
        if not opened.is_deleted:  # with the part of the page it stood in, which an action may draw anew
            opened.close()

    with opened, tag("div", "card dialog wrapped wide" if is_wide else "card dialog wrapped"):
        text("h2", title)
        yield close
    opened.on("hide", opened.delete)
    opened.open()


def confirm(
    title: str, consequence: str, label: str, action: Callable[[], Awaitable[None]], *, keep: str = "Keep it"
) -> None:
    """`label`: of the button that does it. `keep`: of the one that does not."""
    with dialog(title) as close:
        text("p", consequence)

        async def act() -> None:
            try:
                await action()
            finally:  # and not before: a closed dialog is deleted, and what its button does next would have no page
                close()

        with tag("div", "row"):
            button(label, act, kind="danger")
            button(keep, close)


def show_secret(title: str, words: str, secret: str) -> None:
    """It stays until it is put away: a click beside it must not lose what nothing can show again."""
    with dialog(title, persistent=True) as close:
        notice(words, "warning")
        copyable(secret, title)
        button("I have kept it", close, kind="primary")
