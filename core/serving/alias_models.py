"""The table of aliases: other names of models, one name space a project."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class ModelAlias(Base):
    """`target` is a base or a model's id. No foreign key: what it names may be taken away by another project."""

    __tablename__ = "model_aliases"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[float] = mapped_column(default=db_now())
    updated_at: Mapped[float] = mapped_column(default=db_now())
