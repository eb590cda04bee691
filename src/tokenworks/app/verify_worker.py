"""A process that reads pieces of an auditor's run for the leading process (`verify_pool.py`).

Each line of its standard input and output is a JSON value. The first input line names the database and the snapshot (`Begin`), each
further line is a piece. For each check of a piece the process writes a `Step`, and then the piece's result (`Done`). It ends at the end
of its input.
"""

import sys
from typing import Final

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
    """A check of the piece has ended."""

    invariant: str


class Done(msgspec.Struct, tag=True, frozen=True):
    """The result of the piece."""

    found: PieceResult


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Why the piece was not read: the class of PostgreSQL's error, and its first line."""

    reason: str


Message = Step | Done | Failed
decode_begin: Final = msgspec.json.Decoder(Begin).decode
decode_piece: Final = msgspec.json.Decoder(Piece).decode
decode_message: Final = msgspec.json.Decoder(Message).decode
encode_line: Final = msgspec.json.Encoder().encode
_ERROR_CHARS_MAX: Final = 300


def main() -> int:
    from tokenworks.app.verifier import audit_checks  # noqa: PLC0415  (which imports the pool, which imports this)

    source = sys.stdin.buffer
    begin = decode_begin(source.readline())
    try:
        with (
            psycopg.connect(
                begin.dsn, password=begin.password, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S,
                application_name="tokenworks ledger verify", **KEEPALIVES,
            ) as connection,
            connection.transaction(force_rollback=True),
        ):  # fmt: skip
            _use_snapshot(connection, begin.snapshot)
            cards = Offerings(connection, SystemClock(), is_dev=False).rate_cards()
            checks = dict(audit_checks(cards, timed=begin.timed))
            while line := source.readline():
                found = check_piece(
                    connection, decode_piece(line), checks, lambda name: _send(Step(name)), FINDINGS_MAX
                )
                _send(Done(found))
    except psycopg.Error as error:
        _send(Failed(f"{type(error).__name__}: {error}".splitlines()[0][:_ERROR_CHARS_MAX]))
        return 1
    return 0


def _use_snapshot(connection: psycopg.Connection, snapshot: str) -> None:
    """Set the transaction to the leader's snapshot."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
    connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'")
    connection.execute(f"SET LOCAL temp_buffers = '{TEMP_BUFFERS}'")
    # The pool has as many processes as may work at once, so each query stays in one.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    # Where the leading process is gone, the server cancels a long statement.
    connection.execute("SET LOCAL client_connection_check_interval = '2s'")


def _send(said: Message) -> None:
    sys.stdout.buffer.write(encode_line(said) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
