"""A process that reads pieces of a run of the auditor for the process that leads it: `verify_pool.py`.

Its standard input and output have a JSON value a line. The first line in says which database and which snapshot (`Begin`), each line after it
is a piece; for each check of it goes out a `Step`, and then what was found (`Done`). It ends with its input.
"""

import sys
from typing import Any, Final

import msgspec
import psycopg

from tokenworks.app.database.waiting import CONNECT_TIMEOUT_S, KEEPALIVES
from tokenworks.catalog import Offerings
from tokenworks.charging.ledger.verify import FINDINGS_MAX
from tokenworks.charging.ledger.verify.pieces import TEMP_BUFFERS, WORK_MEM, Piece, PieceResult, check_piece
from tokenworks.kernel import SystemClock


class Begin(msgspec.Struct, frozen=True):
    """The database, and the snapshot that the leader exported. `timed`: see `verifier.audit`."""

    dsn: str
    password: str | None
    snapshot: str
    timed: bool


class Step(msgspec.Struct, tag=True, frozen=True):
    """A check of the piece is done."""

    invariant: str


class Done(msgspec.Struct, tag=True, frozen=True):
    """What was found in the piece."""

    found: PieceResult


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Why the piece was not read: the kind of the error, and its first line where it is PostgreSQL's."""

    reason: str


Said = Step | Done | Failed
begin_of: Final = msgspec.json.Decoder(Begin).decode
piece_of: Final = msgspec.json.Decoder(Piece).decode
said_of: Final = msgspec.json.Decoder(Said).decode
line_of: Final = msgspec.json.Encoder().encode
_ERROR_CHARS_MAX: Final = 300


def main() -> int:
    from tokenworks.app.verifier import audit_checks  # noqa: PLC0415  (which imports the pool, which imports this)

    source = sys.stdin.buffer
    begin = begin_of(source.readline())
    try:
        with (
            psycopg.connect(
                begin.dsn, password=begin.password, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S,
                application_name="tokenworks ledger verify", **KEEPALIVES,
            ) as connection,
            connection.transaction(force_rollback=True),
        ):  # fmt: skip
            _follow(connection, begin.snapshot)
            cards = Offerings(connection, SystemClock(), is_dev=False).rate_cards()
            checks = dict(audit_checks(cards, timed=begin.timed))
            while line := source.readline():
                found = check_piece(
                    connection, piece_of(line), checks, lambda name: _say(Step(name)), FINDINGS_MAX
                )
                _say(Done(found))
    except psycopg.Error as error:
        _say(Failed(f"{type(error).__name__}: {error}".splitlines()[0][:_ERROR_CHARS_MAX]))
        return 1
    return 0


def _follow(connection: psycopg.Connection[Any], snapshot: str) -> None:
    """Read what the leader reads."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
    connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'")
    connection.execute(f"SET LOCAL temp_buffers = '{TEMP_BUFFERS}'")
    # There are as many processes as may work at once.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    # Whoever leads may be gone: then nobody waits for the answer to a long statement.
    connection.execute("SET LOCAL client_connection_check_interval = '2s'")


def _say(said: Said) -> None:
    sys.stdout.buffer.write(line_of(said) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
