"""The table of sign-ins: what a browser holds in place of a key."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class SignIn(Base):
    """The right to act as a key without holding it; ends with the key. `is_link`: good for one session only."""

    __tablename__ = "sign_ins"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    is_link: Mapped[bool]
    created_at: Mapped[float] = mapped_column(default=db_now())
    expires_at: Mapped[float] = mapped_column(index=True)
