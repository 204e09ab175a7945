"""Dialogs: a question before what cannot be undone, and a secret that is shown once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from api.dashboard.blocks import button, copyable, notice, tag, text


def confirm(title: str, consequence: str, label: str, action: Callable[[], Awaitable[None]]) -> None:
    """`label`: of the button that does it."""
    with ui.dialog() as dialog, tag("div", "card dialog"):
        text("h2", title)
        text("p", consequence)

        async def act() -> None:
            dialog.close()
            await action()

        with tag("div", "row"):
            button(label, act, kind="danger")
            button("Keep it", dialog.close)
    dialog.props["aria-label"] = title
    dialog.open()


def show_secret(title: str, words: str, secret: str) -> None:
    """It stays until it is put away: a click beside it must not lose what nothing can show again."""
    with ui.dialog().props("persistent") as dialog, tag("div", "card dialog wrapped"):
        text("h2", title)
        notice(words, "warning")
        copyable(secret, title)
        button("I have kept it", dialog.close, kind="primary")

    def forget() -> None:
        dialog.delete()

    dialog.props["aria-label"] = title
    dialog.on("hide", forget)
    dialog.open()
