"""All tables: a table is in the metadata once its module was imported, and this imports every one."""

from __future__ import annotations

from core import alias_models, batch_models
from core.models import Base

__all__ = ["Base", "alias_models", "batch_models"]
