"""A database that takes no writes is a part that is away, and no bug of ours; and transactions that begin alone."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from core import migrate
from core.access import tenancy
from core.db import is_alone, open_database
from core.errors import Unavailable


def test_a_read_only_postgres_is_unavailable_to_writers_alone(postgres_url: str) -> None:
    database = open_database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with database.begin() as session:
        session.execute(text("CREATE TABLE notes (text VARCHAR)"))
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    database.close()  # the setting holds for new connections
    with pytest.raises(Unavailable, match="takes no writes") as caught, database.begin() as session:
        session.execute(text("INSERT INTO notes VALUES ('lost')"))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5.0)
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM notes")) == 0
    database.close()


def test_one_transaction_at_a_time_is_at_the_same(database_url: str) -> None:
    database = open_database(database_url)
    migrate.upgrade(database)
    order: list[str] = []

    def second() -> None:
        with database.begin(alone_at=("it",)):
            order.append("second")

    waiting = threading.Thread(target=second)
    with database.begin(alone_at=("it",)) as session:
        assert is_alone(session, "it")
        assert not is_alone(session, "another")
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    database.close()


def test_transactions_of_other_projects_and_at_others_do_not_wait(postgres_url: str) -> None:
    database = open_database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    asked = text(f"SELECT current_setting('{tenancy.SETTING}')")
    with tenancy.within("it's \\ 100%"), database.begin(alone_at=("it",)) as session:
        assert session.scalar(asked) == "it's \\ 100%"
        with tenancy.within("another"), database.begin(alone_at=("another",)) as other, database.begin() as third:
            assert [session.scalar(asked) for session in (other, third)] == ["another", "another"]
    with database.begin(alone_at=("it",)) as session:
        assert session.scalar(asked) == tenancy.EVERY
    database.close()
