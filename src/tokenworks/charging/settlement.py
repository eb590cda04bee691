"""Journal to PostgreSQL: a thread that settles records in batches, one transaction each, exactly once by sequence."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import msgspec
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
UNSETTLED_RECORDS_MAX: Final = 1_000_000


class _Record(msgspec.Struct):
    """A usage record as the settling statement reads it."""

    account_id: str
    usage_id: str
    request_id: str
    attempt_no: int
    key_id: str
    member_id: str
    protocol: str
    model: str
    deployment: str
    state: str
    reason: str
    counted_by: str
    started_ms: int
    ended_ms: int
    first_byte_ms: int | None
    latency_ms: int
    c: Any
    provider_total: int | None
    parts: Any
    loss: Any
    flags: list[str]
    upstream_id: str | None
    seq: int


_encoder = msgspec.json.Encoder()


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
        self._queue: deque[tuple[int, list[Any], list[Any]]] = deque()
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

    def put(self, seq: int, start: list[Any], finish: list[Any]) -> None:
        """A record that is on disk at `seq`. Lists in the order of `Start` and `Finish`."""
        self._queue.append((seq, start, finish))

    def advance(self, seq: int) -> None:
        """Everything up to `seq` is on disk and was put."""
        self.written_seq = seq

    def queued(self) -> list[tuple[int, list[Any], list[Any]]]:
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
        batch: list[tuple[int, list[Any], list[Any]]] = []
        for seq, start, finish in self._queue:
            if seq > up_to:
                break
            if len(batch) >= BATCH_RECORDS_MAX and seq != batch[-1][0]:
                up_to = batch[-1][0]
                break
            batch.append((seq, start, finish))
        records = _encoder.encode([record(seq, start, finish) for seq, start, finish in batch]).decode()
        grants = {(start[1], part[1]) for _, start, finish in batch for part in finish[9]}
        store.settle(connection, self._journal_id, up_to, records, grants)
        for _ in batch:
            self._queue.popleft()
        self.applied += len(batch)
        self.batches += 1
        self.settled_seq = up_to
        self._settled(up_to)


def record(seq: int, start: list[Any], finish: list[Any]) -> _Record:
    """Start and finish of an attempt as one usage record."""
    (
        usage_id,
        account_id,
        request_id,
        attempt_no,
        key_id,
        member_id,
        protocol,
        model,
        deployment,
        started_ms,
    ) = start[:10]
    (
        finished_id, state, reason, counted_by, ended_ms, first_byte_ms, latency_ms, counts, total, parts, loss, flags, upstream_id,
    ) = finish  # fmt: skip
    assert usage_id == finished_id
    return _Record(
        account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason,
        counted_by, started_ms, ended_ms, first_byte_ms, latency_ms, counts, total, parts, loss, flags, upstream_id, seq,
    )  # fmt: skip


__all__ = ["UNSETTLED_RECORDS_MAX", "Settler", "record"]
