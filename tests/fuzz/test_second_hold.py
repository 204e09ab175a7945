"""The matrix of tenants with the application's own filter taken out: Postgres alone keeps the tenants apart.

Every comparison with a column `project_id` is struck from every statement of a tenant's request. With the policies off
the same requests have to leak, or the run proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import ClauseElement, event, true
from sqlalchemy.engine import Engine
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BinaryExpression
from sqlalchemy.sql.operators import eq

from core.access import row_security, tenancy
from core.settings import Settings
from tests import services
from tests.api.place import Place, place
from tests.fuzz import tenant_matrix
from tests.fuzz.tenant_matrix import Matrix


@contextmanager
def no_filter() -> Iterator[list[str]]:
    """Collects what it struck."""
    struck: list[str] = []

    def strike(element: Any, **_: object) -> ClauseElement | None:
        if isinstance(element, BinaryExpression) and element.operator is eq:
            for side in (element.left, element.right):
                if getattr(side, "name", None) == "project_id" and getattr(side, "table", None) is not None:
                    struck.append(str(element))
                    return true()
        return None

    def before(_: object, statement: Any, multiparams: Any, params: Any, __: object) -> tuple[Any, Any, Any]:
        if tenancy.current() != tenancy.EVERY and isinstance(statement, ClauseElement):
            statement = visitors.replacement_traverse(statement, {}, strike)
        return statement, multiparams, params

    event.listen(Engine, "before_execute", before, retval=True)
    try:
        yield struck
    finally:
        event.remove(Engine, "before_execute", before)


@pytest.fixture(scope="module")
def web(postgres_server: services.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    name = postgres_server.create_database()
    folder = tmp_path_factory.mktemp("data")
    settings = Settings(
        data_dir=folder, database_url=postgres_server.url(name), log_level="error", webhook_allow="127.0.0.1"
    )
    with place(settings) as running:
        yield running
    postgres_server.drop_database(name)


def test_the_database_alone_keeps_tenants_apart(web: Place) -> None:
    owner = tenant_matrix.belongings(web, "owner")
    held = Matrix()
    with no_filter() as struck:
        tenant_matrix.another_tenant(web, held, owner)
    assert held.leaks == []
    assert len(struck) > 200
    assert {text.split(".")[0] for text in struck} >= {"files", "jobs", "models", "batches", "webhook_endpoints"}
    with web.database.begin() as session:
        row_security.release(session.connection())
    loose, second = Matrix(), tenant_matrix.belongings(web, "second")
    with no_filter():
        tenant_matrix.another_tenant(web, loose, second)
    assert len(loose.leaks) > 20
