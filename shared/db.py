"""The connection pool and the only places that commit. Knows roles and tenants, no tables."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from shared.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]
Connection = psycopg.Connection[Row]

BECOME = "SELECT set_config('role', %s, true), set_config('app.tenant', %s, true)"
SESSION_OPTIONS = (
    "-c statement_timeout=10000 -c lock_timeout=3000 -c idle_in_transaction_session_timeout=10000"
    " -c timezone=UTC"
)
RETRYABLE = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
# Not OperationalErrors to psycopg, but the server's doing and gone at the next try: it ended our session because we
# were asleep inside a transaction, or it is a standby just now.
AWAY = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
    PoolTimeout,
)
LONGEST_PAUSE_S = 2.0


def connection_string(url: str, application: str) -> str:
    """`url` with the time-outs that keep a dead server from hanging us; what the url says itself wins."""
    defaults: dict[str, Any] = {
        "application_name": application,
        "connect_timeout": 3,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 8000,
        "options": SESSION_OPTIONS,
    }
    return make_conninfo("", **{**defaults, **conninfo_to_dict(url)})


class Database:
    """A pool on one Postgres. `transaction` works as a tenant, `core` as the platform."""

    def __init__(self, url: str, *, application: str, max_size: int = 8, timeout: float = 5.0) -> None:
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            connection_string(url, application),
            connection_class=psycopg.Connection[Row],
            kwargs={"row_factory": dict_row},
            min_size=1,
            max_size=max_size,
            timeout=timeout,
            max_lifetime=1800,
            # Whoever waits for a connection when the server comes back gets one, and not only its time-out.
            reconnect_timeout=timeout,
            name=application,
            open=True,
        )

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def transaction(self, tenant: UUID) -> Iterator[Connection]:
        """One transaction that sees and writes only `tenant`'s rows. Raises Unavailable without a server."""
        with self._begin("heliu_app", str(tenant)) as connection:
            yield connection

    @contextmanager
    def core(self, *, pipelined: bool = False) -> Iterator[Connection]:
        """One transaction of the platform itself, across tenants, on the tables that it owns.

        `pipelined` sends statements when a result is first asked for, or with the COMMIT: fewer round trips, and a
        lock taken last is held for the COMMIT alone. What a statement raises comes as late as that.
        """
        with self._begin("heliu_core", "", pipelined=pipelined) as connection:
            yield connection

    @contextmanager
    def _begin(self, role: str, tenant: str, *, pipelined: bool = False) -> Iterator[Connection]:
        try:
            connection = self._borrow(role, tenant)
            try:
                # The COMMIT goes out before the pipeline's end, so it travels with what was not yet sent.
                with connection.pipeline() if pipelined else nullcontext(), connection:
                    yield connection
            finally:
                self._pool.putconn(connection)
        except RETRYABLE as exc:
            raise Contended(f"the transaction met another and was rolled back: {_first_line(exc)}") from exc
        except AWAY as exc:
            raise Unavailable(
                f"Postgres does not answer: {_first_line(exc)}", code="database_unavailable"
            ) from exc

    def _borrow(self, role: str, tenant: str) -> Connection:
        """A connection in a transaction of `role`; one that has died in the pool is passed over.

        BEGIN and the role go out in one round trip, which shows too whether the connection lives.
        """
        deadline = time.monotonic() + self._pool.timeout
        while True:
            connection = self._pool.getconn(max(0.0, deadline - time.monotonic()))
            try:
                with connection.pipeline():
                    connection.execute(BECOME, (role, tenant))
            except BaseException as exc:
                # The pool drops a broken one and makes another in its place.
                self._pool.putconn(connection)
                if not isinstance(exc, psycopg.OperationalError) or time.monotonic() > deadline:
                    raise
                log.debug("connection_lost", extra={"error": _first_line(exc)})
            else:
                return connection


class Contended(Unavailable):
    """Rolled back by Postgres because of a deadlock or serialization failure; safe to run again."""

    code = "database_contended"


def retrying(work: Callable[[], T], *, attempts: int = 5, patience: float = 0.05) -> T:
    """Run an idempotent `work` again, with full-jitter back-off, while Postgres is away or contended.

    A pause is never longer than LONGEST_PAUSE_S: a lease does not wait.
    """
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except Unavailable as exc:
            if attempt == attempts:
                raise
            pause = random.uniform(0, min(LONGEST_PAUSE_S, patience * 2**attempt))
            log.warning("database_retry", extra={"attempt": attempt, "pause_s": pause, "error": exc.message})
            time.sleep(pause)
    raise AssertionError("unreachable")


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
