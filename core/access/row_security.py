"""Row-level security on Postgres: the policies that make `core.access.tenancy` hold, also against the tables' owner.

A connection that says nothing sees nothing. Superusers and roles with BYPASSRLS are held by no policy; `attune
doctor` says so. What this holds is a query that forgot its filter: who may send any SQL can say any project.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import Connection

from core.access.tenancy import EVERY, SETTING

# in a sub-select, so that it is asked for once a query and not once a row
_ASKED = f"(SELECT current_setting('{SETTING}', true))"
_SHARED = f"SELECT {{}} FROM checkpoint_permissions AS given WHERE given.project_id = {_ASKED}"  # noqa: S608 - all text here is ours


@dataclass(frozen=True)
class Rule:
    """Which rows of a table are a project's. `seen`: those that it may look at, where these are more."""

    own: str
    seen: str | None = None


def _in_project(column: str = "project_id") -> str:
    return f"{column} = {_ASKED}"


def _of(parent: str, column: str) -> Rule:
    """Rows of a table without a project, which are the project's when the parent is."""
    return Rule(f"EXISTS (SELECT 1 FROM {parent} AS parent WHERE parent.id = {column})")  # noqa: S608


_OWN = Rule(_in_project())
RULES: dict[str, Rule] = {
    # a model that is shared is seen by the guest, and so is its owner's slug, which is a part of the model's id
    "projects": Rule(_in_project("id"), f"{_in_project('id')} OR id IN ({_SHARED.format('given.owner_project_id')})"),
    "models": Rule(_in_project(), f"{_in_project()} OR id IN ({_SHARED.format('given.model_id')})"),
    "checkpoint_permissions": Rule(
        _in_project("owner_project_id"), f"{_in_project('owner_project_id')} OR {_in_project()}"
    ),
    "api_keys": _OWN,
    "audit_log": _OWN,
    "batches": _OWN,
    "creations": _OWN,
    "doctor_tasks": _OWN,
    "files": _OWN,
    "jobs": _OWN,
    "model_aliases": _OWN,
    "token_counts": _OWN,
    "uploads": _OWN,
    "webhook_deliveries": _OWN,
    "webhook_endpoints": _OWN,
    "webhook_events": _OWN,
    "batch_parts": _of("batches", "batch_id"),
    "checkpoints": _of("jobs", "job_id"),
    "job_events": _of("jobs", "job_id"),
    "kept_answers": _of("api_keys", "key_id"),
    "sign_ins": _of("api_keys", "key_id"),
    "snapshots": _of("jobs", "job_id"),
    "upload_parts": _of("uploads", "upload_id"),
}
# What belongs to the place and not to a tenant
EVERYBODYS = frozenset({"base_models", "device_leases", "servers", "throughputs", "workers"})


def enforce(connection: Connection) -> None:
    """Put every table of `RULES` that there is under its policies, again where it was; run by the tables' owner.

    A migration that makes a table of tenants ends in this.
    """
    if connection.dialect.name != "postgresql":
        return
    for table in sorted(RULES.keys() & _tables(connection)):
        rule = RULES[table]
        every = f"{_ASKED} = '{EVERY}'"
        seen, own = f"{every} OR {rule.seen or rule.own}", f"{every} OR {rule.own}"
        for statement in (
            f"DROP POLICY IF EXISTS tenant ON {table}",
            f"DROP POLICY IF EXISTS tenant_deletes ON {table}",
            f"CREATE POLICY tenant ON {table} USING ({seen}) WITH CHECK ({own})",
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        ):
            connection.execute(text(statement))
        if rule.seen:
            deletes = f"CREATE POLICY tenant_deletes ON {table} AS RESTRICTIVE FOR DELETE USING ({own})"
            connection.execute(text(deletes))


def release(connection: Connection) -> None:
    """Undo `enforce`."""
    if connection.dialect.name != "postgresql":
        return
    for table in sorted(RULES.keys() & _tables(connection)):
        connection.execute(text(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"))
        connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
        for policy in ("tenant", "tenant_deletes"):
            connection.execute(text(f"DROP POLICY IF EXISTS {policy} ON {table}"))


def weakness(connection: Connection) -> str | None:
    """Why this connection is not held by the policies, or cannot work under them; None when all is well."""
    role, is_free = connection.execute(
        text("SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
    ).one()
    if is_free:
        return f"the role {role} is a superuser or has BYPASSRLS, and no policy holds it"
    held = "SELECT relname FROM pg_class WHERE relforcerowsecurity AND relnamespace = current_schema()::regnamespace"
    if loose := sorted(RULES.keys() - set(connection.scalars(text(held)))):
        return f"not forced on {', '.join(loose)}"
    if connection.scalar(text(f"SELECT current_setting('{SETTING}', true)")) != EVERY:
        return f"{SETTING} did not reach the server: a pooler between has dropped the connection's options"
    return None


def _tables(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")))
