"""Alembic's entry: runs on the connection that `core.migrate` hands over."""

from __future__ import annotations

from alembic import context

from core import plan_models  # noqa: F401  # its tables belong to the same metadata
from core.models import Base
from core.sign_in_models import SignIn  # noqa: F401  (its table)

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite alters a table by copying it, which drops its triggers: a migration that touches `jobs` makes
    # them anew with core.migrate.create_triggers, and a test looks for them after every revision.
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
