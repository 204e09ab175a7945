"""The database behind one visible `with`: SQLite or Postgres, chosen by the URL and by nothing else.

`begin()` is one writing transaction, `read()` one reading one. Times are seconds since the epoch by the
database's own clock (`db_now`), so no machine's clock decides about a lease.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from psycopg import sql
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Connection, Double, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from core.access import tenancy
from core.errors import Unavailable

POOL_SIZE = 16  # of a process; more at once only wait for each other
RESTED_S = 1.0
_RESTS_SINCE = "rests_since"
_ALONE_AT = "alone_at"


class db_now(FunctionElement[float]):
    """Seconds since the epoch by the database's clock, as it stands at this statement."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_on_postgres(element: db_now, compiler: SQLCompiler, **_: object) -> str:
    # clock_timestamp, not now(): now() stands still within a transaction
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(db_now, "sqlite")
def _now_on_sqlite(element: db_now, compiler: SQLCompiler, **_: object) -> str:
    # unixepoch('subsec') needs SQLite 3.42, and Python 3.11 images carry 3.40
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Database:
    """One engine with its pool. Sessions keep loaded rows usable after commit."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(url, connect_args={"timeout": 30.0})
            event.listen(self.engine, "connect", _prepare_sqlite)
        else:
            self.engine = create_engine(
                url,
                pool_size=pool_size,
                max_overflow=0,  # one beyond the size is closed after its use, and opening one costs ten requests
                pool_use_lifo=True,
                pool_timeout=5.0,
                connect_args={
                    "autocommit": True,  # we say BEGIN ourselves, here too: `_begin_on_postgres`
                    "connect_timeout": 5,
                    "options": f"-c idle_in_transaction_session_timeout=60000 -c {tenancy.SETTING}={tenancy.EVERY}",
                },
            )
            event.listen(self.engine, "begin", _begin_on_postgres)
            event.listen(self.engine, "connect", _note_rest)
            event.listen(self.engine, "checkin", _note_rest)
            event.listen(self.engine, "checkout", self._ask_rested)

    def _ask_rested(self, connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        """Is the server still there? A connection that was used a moment ago is not asked, under load least of all."""
        if time.monotonic() - record.info.get(_RESTS_SINCE, 0.0) < RESTED_S:
            return
        try:
            self.engine.dialect.do_ping(connection)
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError("the connection was lost while it rested") from error

    @contextmanager
    def begin(self, *, alone_at: Collection[str] = ()) -> Generator[Session]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        `alone_at`: it waits until no other transaction is at any of these, which `is_alone` tells. Raises
        `Unavailable` when the database cannot be reached.
        """
        # IMMEDIATE: a deferred BEGIN fails at once when a reader turns writer
        yield from self._session("BEGIN IMMEDIATE", alone_at)

    @contextmanager
    def read(self) -> Generator[Session]:
        """One consistent look; what is written in it is an error of ours."""
        yield from self._session("BEGIN DEFERRED", ())

    def _session(self, sqlite_begin: str, alone_at: Collection[str]) -> Generator[Session]:
        try:
            with self.engine.connect() as connection:
                if self.is_sqlite:  # which has one writer anyway
                    connection.exec_driver_sql(sqlite_begin)
                else:
                    if alone_at:
                        connection.execution_options(**{_ALONE_AT: alone_at})
                    connection.begin()
                with Session(connection, expire_on_commit=False, info={_ALONE_AT: alone_at}) as session:
                    try:
                        yield session
                        session.flush()
                        connection.commit()
                    except BaseException:
                        # New rows are new again: given to another try as they are, they would not be inserted
                        session.rollback()
                        raise
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise Unavailable("the database cannot be reached", code="database_unavailable") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise Unavailable("the database went away", code="database_unavailable") from error
            if isinstance(error.orig, ReadOnlySqlTransaction):  # a standby, or a server that an operator froze
                raise Unavailable("the database takes no writes now", code="database_unavailable") from error
            raise

    def check(self) -> None:
        """Raise `Unavailable` unless the database answers."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def is_alone(session: Session, what: str) -> bool:
    """Did this transaction begin alone at `what`?"""
    return what in session.info[_ALONE_AT]


def _begin_on_postgres(connection: Connection) -> None:
    """Say BEGIN and everything that a transaction starts with in one trip to the server.

    Run for every transaction of the engine, whoever begins it, so that none is without its project.
    """
    started: list[str] = []
    if (project := tenancy.current()) != tenancy.EVERY:
        started.append(_within(project))
    alone_at: Collection[str] = connection.get_execution_options().get(_ALONE_AT, ())
    # in one order everywhere, so that no two wait for each other
    started += [f"pg_advisory_xact_lock({number})" for number in sorted(map(_number, alone_at))]
    # simple texts without parameters: only these may be several statements
    connection.exec_driver_sql(f"BEGIN; SELECT {', '.join(started)}" if started else "BEGIN")


def _number(what: str) -> int:
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)


@lru_cache(maxsize=1024)  # quoting takes a tenth of a millisecond
def _within(project: str) -> str:
    # the last argument: until the transaction ends, so that no pooled connection carries it on
    quoted = sql.SQL("set_config({}, {}, true)").format(tenancy.SETTING, project).as_string()
    return quoted.replace("%", "%%")  # a parameter's mark


def _note_rest(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_RESTS_SINCE] = time.monotonic()


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, SqliteConnection)
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def open_database(url: str) -> Database:
    return Database(url)
