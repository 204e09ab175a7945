"""All tables: a table is in the metadata once its module was imported, and this imports every one."""

from __future__ import annotations

from core.access import models as sign_in_models
from core.batches import models as batch_models
from core.doctor import models as doctor_models
from core.files import models as upload_models
from core.models import Base
from core.planning import models as plan_models
from core.serving import alias_models
from core.webhooks import models as webhook_models

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
