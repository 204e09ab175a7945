"""Dialogs: a question before what cannot be undone, and a secret that is shown once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard.blocks import button, copyable, notice, tag, text


@contextmanager
def _dialog(title: str, *, persistent: bool = False) -> Generator[Callable[[], None]]:
    """Yields what closes it; once closed, nothing of it is left in the page."""
    dialog = ui.dialog().props("persistent" if persistent else "")
    dialog.props["aria-label"] = title

    def close() -> None:
        dialog.close()

    with dialog, tag("div", "card dialog wrapped"):
        text("h2", title)
        yield close
    dialog.on("hide", dialog.delete)
    dialog.open()


def confirm(title: str, consequence: str, label: str, action: Callable[[], Awaitable[None]]) -> None:
    """`label`: of the button that does it."""
    with _dialog(title) as close:
        text("p", consequence)

        async def act() -> None:
            close()
            await action()

        with tag("div", "row"):
            button(label, act, kind="danger")
            button("Keep it", close)


def show_secret(title: str, words: str, secret: str) -> None:
    """It stays until it is put away: a click beside it must not lose what nothing can show again."""
    with _dialog(title, persistent=True) as close:
        notice(words, "warning")
        copyable(secret, title)
        button("I have kept it", close, kind="primary")
