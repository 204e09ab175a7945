"""A database that takes no writes is a part that is away, and no bug of ours."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from core.db import open_database
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
