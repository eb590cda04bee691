"""Waits for the database that have a bound and say whom they wait for.

Three things keep a statement waiting for ever: a peer that vanished without a word (TCP alone notices after hours), a server
that hangs with its sockets open, and a lock that another session keeps. `KEEPALIVES` ends the first on every connection,
`BoundedConnection` the second where a request waits, and `Watch` both where an operator's command waits.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import Connection, errors
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from tokenworks.kernel import Unavailable

Value = TypeVar("Value")

CONNECT_TIMEOUT_S: Final = 5
# A peer that says nothing to three probes after ten seconds is gone (25 s); so is one that acknowledges nothing for 30 s.
KEEPALIVES: Final[dict[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# Of one statement of a request to the control plane: below the 60 s that the gateway waits for its answer.
ANSWER_S: Final = 50.0
# A command that has no answer for this long looks whom it waits for, this often.
LOOK_AFTER_S: Final = 3.0
LOOK_EVERY_S: Final = 1.0

_BLOCKERS: Final = """SELECT pid, application_name, state, round(extract(epoch FROM clock_timestamp() - xact_start))::bigint
    FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids(%s)) ORDER BY pid"""


class BoundedConnection(Connection):
    """A connection whose every answer is waited for `answer_s` at most. One that is late is closed: its state is not known."""

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


def check_soon(connection: psycopg.Connection[Any]) -> None:
    """A pool's check: a connection whose server does not answer at once, as it does where it hangs, is not given out."""
    if isinstance(connection, BoundedConnection):
        connection.answer_s = float(CONNECT_TIMEOUT_S)
    connection.execute("")
    if isinstance(connection, BoundedConnection):
        connection.answer_s = ANSWER_S


class Watch:
    """While a command waits for an answer, looks whether the database answers others and who keeps the command waiting.

    Says whom it waits for, each set of sessions once. Where nobody has been answered for `away_s` the connection is cut, so
    that the statement ends with `psycopg.OperationalError`, and `gave_up` says why. A lock has its own bound, `lock_timeout`.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], url: str, say: Callable[[str], None], away_s: float
    ) -> None:
        self.gave_up = ""
        self._connection = connection
        self._pid = connection.info.backend_pid
        self._url = url
        self._say = say
        self._away_s = away_s
        self._said: set[tuple[int, ...]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not joined: a look of its own may be waiting for the same database.
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
        """Whether the database answers; says who keeps the command waiting."""
        try:
            with contextlib.closing(_look_connection(self._url, self._away_s)) as beside:
                blockers = beside.execute(_BLOCKERS, (self._pid,)).fetchall()
        except psycopg.Error:
            return False
        pids = tuple(row[0] for row in blockers)
        if pids and pids not in self._said:
            self._said.add(pids)
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
def watched(
    connection: psycopg.Connection[Any], url: str, say: Callable[[str], None], wait_s: float
) -> Iterator[None]:
    """What a command does with its connection waits at most `wait_s` for a lock, and for a database that answers nobody.

    Raises `Unavailable`; a statement that is only long is not cut.
    """
    with Watch(connection, url, say, wait_s) as watch:
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
