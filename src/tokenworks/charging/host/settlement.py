"""From the journal to PostgreSQL: a thread settles records in batches, each in one transaction and exactly once, by sequence."""

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

import psycopg
import structlog
from psycopg import Connection

from tokenworks.charging.errors import LedgerWentBack
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.ledger.chain import Head
from tokenworks.charging.ledger.settle_rows import UnsettledRecord
from tokenworks.charging.model import LOSS_CAUSES, RateLookup
from tokenworks.kernel import Histogram, TokenworksError

log = structlog.get_logger()

BATCH_RECORDS_MAX: Final = 2000
SETTLE_EVERY_S: Final = 0.1
RETRY_S: Final = 0.25
# How often the settled sequence advances where the frames have no records (starts, progress).
ADVANCE_EVERY_S: Final = 5.0
# The most partitions that are made for a batch of late records.
MONTHS_MAX: Final = 24
KEYS_USED_MAX: Final = 100_000
# The most accounts whose chain heads are remembered; that of another account is read from the database.
HEADS_MAX: Final = 100_000
# How often the newest chain head of each shard is compared with the database: one node of a distributed database may lose commits.
# Not Final, so that tests can set it: a compiled module has the value of a Final built in.
LOOK_BACK_EVERY_S = 5.0
# Bounds of a histogram of how long batches took, in microseconds.
SETTLE_US: Final = (
    1000,
    2500,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
)
# The key's id in a record's JSON, which is found without decoding the record.
_KEY_ID: Final = re.compile(rb'"key_id":"([0-9a-f]{32})"')


class Settler:
    """Owns a thread and its connection. `settled` is called in the thread, with the sequence up to which records are settled."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        journal_id: UUID,
        settled_seq: int,
        settled: Callable[[int], None],
        rates: RateLookup,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._connect = connect
        self._journal_id = journal_id
        self._settled = settled
        self._rates = rates
        self._on_fatal = on_fatal
        # Ids of keys whose records were settled, for the caller to take; the oldest are dropped.
        self.keys_used: deque[bytes] = deque(maxlen=KEYS_USED_MAX)
        self._heads: dict[str, Head] = {}
        # By shard: an account of the last batch that had one.
        self._newest: dict[str, str] = {}
        # When queued records were put: (sequence, monotonic seconds).
        self._put_s: deque[tuple[int, float]] = deque()
        self._queue: deque[UnsettledRecord] = deque()
        self._wake = threading.Condition()
        self._stop = False
        self._urgent = False
        self._idle = False
        self.settled_seq = settled_seq
        self.written_seq = settled_seq
        self.applied = 0
        self.quarantined = 0
        # Tokens that the operator bore since the start, by cause.
        self.lost_tokens: Counter[str] = Counter(dict.fromkeys(LOSS_CAUSES, 0))
        self.batches = 0
        self.cpu_ns = 0
        self.times = Histogram(SETTLE_US)
        self.failing_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, records: Iterable[UnsettledRecord]) -> None:
        """Queue records that are on disk, in the journal's order."""
        before = len(self._queue)
        self._queue.extend(records)
        if len(self._queue) > before:
            self._put_s.append((self._queue[-1][0], time.monotonic()))
        if self._idle:
            with self._wake:
                self._wake.notify()

    def advance(self, seq: int) -> None:
        """Note that everything up to `seq` is on disk and was queued with `put`."""
        self.written_seq = seq

    def queued(self) -> list[UnsettledRecord]:
        """A copy of the records that are not settled yet. The thread may settle some of them meanwhile."""
        while True:
            try:
                return list(self._queue)
            except RuntimeError:  # the queue changed while it was copied
                continue

    @property
    def oldest_s(self) -> float:
        """How long the oldest record has waited for the database."""
        try:
            while self._put_s and self._put_s[0][0] <= self.settled_seq:
                self._put_s.popleft()
            return time.monotonic() - self._put_s[0][1] if self._put_s else 0.0
        except IndexError:
            return 0.0

    @property
    def backlog(self) -> int:
        return len(self._queue)

    def hurry(self) -> None:
        """Settle all that is queued now, as a caller waits for it."""
        with self._wake:
            self._urgent = True
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """Settle what is left and end the thread. Return True if everything is settled."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return self.settled_seq >= self.written_seq

    def _run(self) -> None:
        connection: Connection | None = None
        advanced_s = checked_s = 0.0
        while True:
            with self._wake:
                # Sleep until a record is put; then wait for more, so that they make one batch.
                self._idle = True  # set before the queue is read, as `put` reads it after it has put
                if not self._queue and not self._urgent and not self._stop:
                    self._wake.wait(ADVANCE_EVERY_S)
                self._idle = False
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
                    began_ns, began_s = time.thread_time_ns(), time.monotonic()
                    self._settle(connection)
                    self.cpu_ns += time.thread_time_ns() - began_ns
                    self.times.observe(int((time.monotonic() - began_s) * 1_000_000))
                    advanced_s = now_s
                if now_s - checked_s >= LOOK_BACK_EVERY_S:
                    self._check_heads(connection)
                    checked_s = now_s
                self.failing_since_s = None
            except LedgerWentBack as error:
                # The next recorder replays the journal from the sequence that the database has.
                self._on_fatal(error)
                return
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

    def _check_heads(self, connection: Connection) -> None:
        newest = {
            account_id: self._heads[account_id]
            for account_id in self._newest.values()
            if account_id in self._heads
        }
        settle_store.check_heads(connection, self._journal_id, newest)

    def _settle(self, connection: Connection) -> None:
        up_to = self.written_seq
        batch: list[UnsettledRecord] = []
        for settling in self._queue:
            seq = settling[0]
            if seq > up_to:
                break
            if len(batch) >= BATCH_RECORDS_MAX and seq != batch[-1][0]:
                up_to = batch[-1][0]
                break
            batch.append(settling)
        self._apply(connection, up_to, batch)
        self.keys_used.extend({found[1] for *_, text in batch if (found := _KEY_ID.search(text))})
        for _ in batch:
            self._queue.popleft()
        self.applied += len(batch)
        self.batches += 1
        # By the last digit of an account (`shard_of`).
        self._newest.update({account_id[-1]: account_id for _, account_id, *_ in batch})
        while len(self._heads) > HEADS_MAX:
            del self._heads[next(iter(self._heads))]
        self.settled_seq = up_to
        self._settled(up_to)

    def _apply(self, connection: Connection, up_to: int, batch: list[UnsettledRecord]) -> None:
        try:
            settle_store.settle(
                connection,
                self._journal_id,
                up_to,
                batch,
                self._rates,
                expected=self.settled_seq,
                lost_tokens=self.lost_tokens,
                heads=self._heads,
            )
        except settle_store.REFUSALS as error:
            log.error(
                "settlement.refused",
                error=f"{type(error).__name__}: {error}".splitlines()[0],
                records=len(batch),
            )
            self._settle_apart(connection, up_to, batch)

    def _settle_apart(self, connection: Connection, up_to: int, batch: list[UnsettledRecord]) -> None:
        """Settle a batch of which some record is refused. First make partitions for late records, which lack one; then find the refused
        records by bisection and put them into quarantine.
        """
        settle_store.ensure_usage_months(connection, settle_store.months_of(batch, MONTHS_MAX))
        refused: dict[str, str] = {}
        settle_store.settle(
            connection,
            self._journal_id,
            up_to,
            batch,
            self._rates,
            expected=self.settled_seq,
            quarantine=refused,
            lost_tokens=self.lost_tokens,
            heads=self._heads,
        )
        self.quarantined += len(refused)
        for usage_id, reason in refused.items():
            log.critical("settlement.quarantined", usage_id=usage_id, reason=reason)
