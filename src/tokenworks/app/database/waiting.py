"""Bounded waits for the database, with errors that name the session that holds them up.

Three causes make a statement wait for ever: a peer that vanished (TCP alone notices after hours), a server that hangs with its sockets
open, and a lock that another session holds. `KEEPALIVES` bounds the first on every connection, `BoundedConnection` the second where a
request waits, and `ConnectionWatch` the second and the third where an operator's command waits.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Self, TypedDict, TypeVar

import psycopg
from psycopg import Connection, errors
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from tokenworks.kernel import Unavailable

Value = TypeVar("Value")

CONNECT_TIMEOUT_S: Final = 5


class Keepalives(TypedDict):
    """Parameters of libpq: when TCP takes a silent peer for gone."""

    keepalives: int
    keepalives_idle: int
    keepalives_interval: int
    keepalives_count: int
    tcp_user_timeout: int


# A peer that answers none of three probes after ten seconds is gone (25 s); so is one that acknowledges nothing for 30 s.
KEEPALIVES: Final[Keepalives] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# For one statement of a request to the control plane: below the 60 s for which the gateway waits for the control plane's answer.
ANSWER_S: Final = 50.0
# A command without an answer for `LOOK_AFTER_S` looks, every `LOOK_EVERY_S`, which sessions block it.
LOOK_AFTER_S: Final = 3.0
LOOK_EVERY_S: Final = 1.0

_BLOCKERS: Final = """SELECT pid, application_name, state, round(extract(epoch FROM clock_timestamp() - xact_start))::bigint
    FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids(%s)) ORDER BY pid"""


class BoundedConnection(Connection):
    """A connection that waits at most `answer_s` for each answer. Where an answer is late the connection is closed, since its state is
    unknown.
    """

    answer_s: float = ANSWER_S

    def wait(self, gen: PQGen[Value], interval: float = 0.1, timeout: float | None = None) -> Value:
        """Raises `psycopg.OperationalError` where the server has not answered in time."""
        try:
            return super().wait(gen, interval, self.answer_s if timeout is None else timeout)
        except errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the database has not answered for {self.answer_s:g} s") from None


def check_pooled(connection: Connection) -> None:
    """The check of a pool: a connection whose server hangs, so that it does not answer at once, is not given out."""
    if isinstance(connection, BoundedConnection):
        connection.answer_s = float(CONNECT_TIMEOUT_S)
    connection.execute("")
    if isinstance(connection, BoundedConnection):
        connection.answer_s = ANSWER_S


class ConnectionWatch:
    """While a command waits for an answer, a thread looks whether the database answers other connections, and which sessions block the
    command.

    It reports each set of blocking sessions once, with `say`. Where the database has answered no connection for `away_s`, it cuts the
    command's connection: the statement ends with `psycopg.OperationalError`, and `gave_up` has the reason. A lock has its own bound,
    `lock_timeout`.
    """

    def __init__(self, connection: Connection, url: str, say: Callable[[str], None], away_s: float) -> None:
        self.gave_up = ""
        self._connection = connection
        self._pid = connection.info.backend_pid
        self._url = url
        self._say = say
        self._away_s = away_s
        self._reported: set[tuple[int, ...]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not joined: the thread may be waiting for the same database.
        self._ended.set()

    def _run(self) -> None:
        waits_since_s = answered_s = time.monotonic()
        while not self._ended.wait(min(LOOK_EVERY_S, self._away_s / 4)):
            now_s = time.monotonic()
            if self._connection.closed:
                return
            if self._connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
                waits_since_s = answered_s = now_s
                continue
            if now_s - waits_since_s < min(LOOK_AFTER_S, self._away_s / 2):
                continue
            if self._look():
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s >= self._away_s:
                self._give_up()
                return

    def _look(self) -> bool:
        """True where the database answers. Reports the sessions that block the command."""
        try:
            with contextlib.closing(_look_connection(self._url, self._away_s)) as connection:
                blockers = connection.execute(_BLOCKERS, (self._pid,)).fetchall()
        except psycopg.Error:
            return False
        pids = tuple(row[0] for row in blockers)
        if pids and pids not in self._reported:
            self._reported.add(pids)
            self._say(f"waits for a lock that others keep: {', '.join(map(_session, blockers))}")
        return True

    def _give_up(self) -> None:
        self.gave_up = (
            f"the database has answered nobody for {self._away_s:g} s, so the command gave up; whether its last statement was "
            "done is not known: look before you repeat it"
        )
        with contextlib.suppress(OSError, psycopg.Error):
            cut = socket.socket(fileno=os.dup(self._connection.fileno()))
            with contextlib.closing(cut):
                cut.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def watched(connection: Connection, url: str, say: Callable[[str], None], wait_s: float) -> Iterator[None]:
    """In this context a command waits at most `wait_s` for a lock, and for a database that answers no connection.

    Raises `Unavailable`. A statement that only runs long is not cut.
    """
    with ConnectionWatch(connection, url, say, wait_s) as watch:
        try:
            connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(wait_s * 1000)}ms",))
            yield
        except errors.LockNotAvailable as error:
            raise Unavailable(
                f"another session has kept a lock for {wait_s:g} s, so the command gave up and changed nothing more: end that "
                "session or try again"
            ) from error
        except psycopg.OperationalError as error:
            if watch.gave_up:
                raise Unavailable(watch.gave_up) from error
            raise


def _look_connection(url: str, away_s: float) -> BoundedConnection:
    bound_s = max(1.0, min(float(CONNECT_TIMEOUT_S), away_s / 2))
    connection = BoundedConnection.connect(
        url, autocommit=True, connect_timeout=max(2, int(bound_s)), application_name="tokenworks watch"
    )
    connection.answer_s = bound_s
    return connection


def _session(row: TupleRow) -> str:
    pid, name, state, seconds = row
    words = [text for text in (name, state) if text]
    if seconds is not None:
        words.append(f"in a transaction for {seconds} s")
    return f"session {pid}" + (f" ({', '.join(words)})" if words else "")
