"""What the database's roles lose again after a migration: default privileges gave them rows of every table.

The roles are made by docker/postgres-init.sh; a database without them (SQLite, or one owner for all) is left alone.
A worker authenticates nobody and delivers nothing, so it sees neither keys nor webhooks' secrets; neither side of
the service writes the migrations' own table, and nobody changes what was logged.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Connection

WEB = "attune_web"
WORKER = "attune_worker"
_WRITING = "INSERT, UPDATE, DELETE"
# table -> [(right, role)]
_TAKEN_BACK = {
    "api_keys": [("ALL", WORKER)],
    "sign_ins": [("ALL", WORKER)],
    "kept_answers": [("ALL", WORKER)],
    "projects": [(_WRITING, WORKER)],
    "model_aliases": [(_WRITING, WORKER)],
    "audit_log": [("UPDATE", WEB), ("ALL", WORKER)],
    "webhook_endpoints": [("ALL", WORKER)],
    "webhook_deliveries": [("ALL", WORKER)],
    "doctor_tasks": [("ALL", WORKER)],
    "alembic_version": [(_WRITING, WEB), (_WRITING, WORKER)],
}


def take_back(connection: Connection) -> None:
    """Run by the tables' owner, after every migration."""
    if connection.dialect.name != "postgresql":
        return
    roles = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    tables = set(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")))
    for table in tables & _TAKEN_BACK.keys():
        for right, role in _TAKEN_BACK[table]:
            if role in roles:
                connection.execute(text(f"REVOKE {right} ON {table} FROM {role}"))
