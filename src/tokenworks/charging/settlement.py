"""Journal to PostgreSQL: a thread that settles records in batches, one transaction each, exactly once by sequence."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import UUID

import psycopg
import structlog

from tokenworks.charging import store
from tokenworks.kernel import TokenworksError

log = structlog.get_logger()

BATCH_RECORDS_MAX: Final = 2000
SETTLE_EVERY_S: Final = 0.1
RETRY_S: Final = 0.25
# Frames without records (starts, progress) advance the settled sequence, but not each on its own.
ADVANCE_EVERY_S: Final = 5.0


Settling = tuple[int, str, list[tuple[str, str, int]], bytes]
"""(sequence, account, [(bucket, grant, amount), …], record as JSON)"""


class Settler:
    """Owns a thread and its connection. `settled` is called in the thread, with the sequence that is settled."""

    def __init__(
        self,
        connect: Callable[[], store.Connection],
        journal_id: UUID,
        settled_seq: int,
        settled: Callable[[int], None],
    ) -> None:
        self._connect = connect
        self._journal_id = journal_id
        self._settled = settled
        self._queue: deque[Settling] = deque()
        self._wake = threading.Condition()
        self._stop = False
        self._urgent = False
        self.settled_seq = settled_seq
        self.written_seq = settled_seq
        self.applied = 0
        self.batches = 0
        self.cpu_ns = 0
        self.failing_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, settling: Settling) -> None:
        """A record that is on disk."""
        self._queue.append(settling)

    def advance(self, seq: int) -> None:
        """Everything up to `seq` is on disk and was put."""
        self.written_seq = seq

    def queued(self) -> list[Settling]:
        """What is not settled yet. The thread may take from it meanwhile."""
        while True:
            try:
                return list(self._queue)
            except RuntimeError:  # it changed while it was read
                continue

    @property
    def backlog(self) -> int:
        return len(self._queue)

    def hurry(self) -> None:
        """Settle what there is now: somebody waits for it."""
        with self._wake:
            self._urgent = True
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """Settle what is left and end. Whether everything was settled."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return self.settled_seq >= self.written_seq

    def _run(self) -> None:
        connection: store.Connection | None = None
        advanced_s = 0.0
        while True:
            with self._wake:
                if not self._urgent and not self._stop:
                    self._wake.wait(SETTLE_EVERY_S)
                urgent, self._urgent = self._urgent, False
                stop = self._stop
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                now_s = time.monotonic()
                idle = not self._queue and self.settled_seq < self.written_seq
                if self._queue or (idle and (urgent or stop or now_s - advanced_s > ADVANCE_EVERY_S)):
                    began_ns = time.thread_time_ns()
                    self._settle(connection)
                    self.cpu_ns += time.thread_time_ns() - began_ns
                    advanced_s = now_s
                self.failing_since_s = None
            except (psycopg.Error, TokenworksError, AssertionError) as error:
                if self.failing_since_s is None:
                    self.failing_since_s = time.monotonic()
                    log.error(
                        "settlement.failing",
                        error=f"{type(error).__name__}: {error}".splitlines()[0],
                        backlog=len(self._queue),
                    )
                if connection is not None:
                    connection.close()
                    connection = None
                if stop:
                    return
                time.sleep(RETRY_S)
                continue
            if stop and not self._queue and self.settled_seq >= self.written_seq:
                if connection is not None:
                    connection.close()
                return

    def _settle(self, connection: store.Connection) -> None:
        up_to = self.written_seq
        batch: list[Settling] = []
        for settling in self._queue:
            seq = settling[0]
            if seq > up_to:
                break
            if len(batch) >= BATCH_RECORDS_MAX and seq != batch[-1][0]:
                up_to = batch[-1][0]
                break
            batch.append(settling)
        records = b"[" + b",".join([b"[%d,%b]" % (seq, json) for seq, _, _, json in batch]) + b"]"
        grants = {(account_id, part[1]) for _, account_id, used, _ in batch for part in used}
        store.settle(connection, self._journal_id, up_to, records.decode(), grants)
        for _ in batch:
            self._queue.popleft()
        self.applied += len(batch)
        self.batches += 1
        self.settled_seq = up_to
        self._settled(up_to)
