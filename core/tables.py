"""All tables: a table is in the metadata once its module was imported, and this imports every one."""

from __future__ import annotations

from core import (
    alias_models,
    batch_models,
    doctor_models,
    plan_models,
    sign_in_models,
    upload_models,
    webhook_models,
)
from core.models import Base

__all__ = [
    "Base",
    "alias_models",
    "batch_models",
    "doctor_models",
    "plan_models",
    "sign_in_models",
    "upload_models",
    "webhook_models",
]
