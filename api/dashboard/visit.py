"""Who looks at a page: found by the door before the page is built, and handed to it with the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request
from nicegui import ui

from api.dashboard.rest import Json, Rest

KEY = "attune_visit"  # in the request's state


@dataclass(frozen=True)
class Visit:
    """`scopes`: what the key behind the session may do. `theme`: light, dark, or auto, which follows the system."""

    rest: Rest
    key_id: str
    key_name: str
    project_id: str
    project_name: str
    scopes: frozenset[str]
    is_operator: bool
    theme: str

    def may(self, scope: str) -> bool:
        return self.is_operator or scope in self.scopes

    @staticmethod
    def of(rest: Rest, session: Json, theme: str) -> Visit:
        return Visit(
            rest=rest,
            key_id=session["key_id"],
            key_name=session["key_name"],
            project_id=session["project_id"],
            project_name=session["project_name"],
            scopes=frozenset(session["scopes"]),
            is_operator=session["is_operator"],
            theme=theme,
        )


def visit_of(request: Request) -> Visit:
    return cast(Visit, getattr(request.state, KEY))


def leave_for_sign_in() -> None:
    """From an open page whose session has ended."""
    ui.navigate.to("/sign-in?ended=1")
