"""Processes that read the pieces of an auditor's run, each on a connection of its own, all in one snapshot."""

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import psycopg

from tokenworks.app import verify_worker
from tokenworks.app.verify_worker import Begin, Done, Failed, Step
from tokenworks.charging.ledger.verify.pieces import Piece, PieceResult
from tokenworks.charging.ledger.verify.rolling import Readers
from tokenworks.kernel import Invalid, Unavailable

PROCESSES_MAX: Final = 32
_READ_BYTES: Final = 1 << 16


def default_processes() -> int:
    """One per core that this process may use, at most `PROCESSES_MAX`."""
    return min(PROCESSES_MAX, len(os.sched_getaffinity(0)))


def readers(connection: psycopg.Connection, processes: int, *, timed: bool) -> Readers:
    """A function that reads pieces of this connection's database with several processes. Raises `Invalid` for too many."""
    if processes > PROCESSES_MAX:
        raise Invalid(f"{processes} processes: at most {PROCESSES_MAX} read at once")
    info = connection.info

    def read(snapshot: str, pieces: Sequence[Piece], step: Callable[[str], None]) -> list[PieceResult]:
        begin = Begin(info.dsn, info.password or None, snapshot, timed)
        with contextlib.ExitStack() as stack:
            workers = [
                stack.enter_context(_reader(number, begin))
                for number in range(1, min(processes, len(pieces)) + 1)
            ]
            return _PieceRun(workers, pieces, step).results()

    return read


class _Reader:
    """One process: the piece that it reads now, and the beginning of its next line."""

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number, self.process = number, process
        self.at: int | None = None
        self.invariant: str | None = None
        self.rest = b""

    def lines(self) -> list[bytes]:
        """The complete lines that the process wrote. Raises `Unavailable` where it has ended."""
        assert self.process.stdout is not None
        read = os.read(self.process.stdout.fileno(), _READ_BYTES)
        if not read:
            raise self.ended(f"ended with status {self.process.wait()}")
        *lines, self.rest = (self.rest + read).split(b"\n")
        return lines

    def ended(self, how: str) -> Unavailable:
        after = "before its first check" if self.invariant is None else f"after the check {self.invariant!r}"
        return Unavailable(
            f"process {self.number} of `ledger verify` (pid {self.process.pid}) {how} {after}: nothing is known of the ledger; run it again"
        )

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.ended(f"ended with status {self.process.wait()}") from None


@contextlib.contextmanager
def _reader(number: int, begin: Begin) -> Iterator[_Reader]:
    """A started process; it is killed at the end of the context."""
    # Ctrl-C at the terminal is for the leading process, which ends the others.
    process = subprocess.Popen(
        [sys.executable, "-m", verify_worker.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    worker = _Reader(number, process)
    try:
        worker.send(verify_worker.encode_line(begin))
        yield worker
    finally:
        process.kill()
        process.communicate()


class _PieceRun:
    """Gives the pieces, in their order, to processes that are free."""

    def __init__(
        self, workers: Sequence[_Reader], pieces: Sequence[Piece], step: Callable[[str], None]
    ) -> None:
        self._workers, self._pieces, self._step = workers, pieces, step
        self._next = 0
        self._found: dict[int, PieceResult] = {}

    def results(self) -> list[PieceResult]:
        """The result of each piece. Raises `Unavailable` where a process ends or fails, since its piece is not read then."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                self._give(worker)
            while len(self._found) < len(self._pieces):
                for key, _ in selector.select():
                    for line in key.data.lines():
                        self._take(key.data, line)
        return [self._found[at] for at in range(len(self._pieces))]

    def _take(self, worker: _Reader, line: bytes) -> None:
        match verify_worker.decode_message(line):
            case Step(invariant):
                worker.invariant = invariant
                self._step(invariant)
            case Done(found):
                assert worker.at is not None
                self._found[worker.at] = found
                self._give(worker)
            case Failed(reason):
                raise worker.ended(f"failed ({reason})")

    def _give(self, worker: _Reader) -> None:
        worker.at = None
        if self._next < len(self._pieces):
            worker.at, self._next = self._next, self._next + 1
            worker.send(verify_worker.encode_line(self._pieces[worker.at]))
