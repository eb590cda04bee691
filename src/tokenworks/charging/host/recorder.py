"""The host's charging agent: owns the journal, the host's grants and the settlement. One process a host.

What a worker reports is durable when it is acknowledged. The loop writes the journal itself (O_DSYNC): while the
disk works, messages gather in the sockets and the next commit takes them all, so grouping costs no thread hop.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import structlog

from tokenworks.catalog import Counts
from tokenworks.charging import wire
from tokenworks.charging.errors import JournalCorrupt, JournalFailed
from tokenworks.charging.host.account import Ask
from tokenworks.charging.host.attempts import (
    OPEN_ATTEMPTS_MAX,
    WORKER_LOST,
    OpenAttempt,
    attempt_from_wire,
    interrupted,
)
from tokenworks.charging.host.grants import HostGrants
from tokenworks.charging.host.journal import Journal, read_segment
from tokenworks.charging.host.limits import HostLimits
from tokenworks.charging.host.losses import HostLosses
from tokenworks.charging.host.queues import HostQueues
from tokenworks.charging.host.settlement import Settler
from tokenworks.charging.ledger.settle_rows import Settling
from tokenworks.charging.model import Need
from tokenworks.kernel import Histogram, NotFound, TokenworksError

log = structlog.get_logger()

# Under load a commit at most every third millisecond: it costs the same whatever it holds. A lone one never waits.
# Not Final, so that tests can set it: a compiled module has the value of a Final built in.
COMMIT_PACE_S = 0.003
CLEAN_EVERY_S: Final = 30.0
# While a journal is read, a sign of life at least every so many frames.
ALIVE_FRAMES: Final = 256
# Bounds of a histogram of how long commits took, in microseconds.
COMMIT_US: Final = (
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    10_000_000,
)
_FROM_WORKER: Final = b"W"
_OWN: Final = b"R"
_CHECKPOINT: Final = b"C"
_WORKER_ID_BYTES: Final = 16

Answer = Callable[[str, Any], Awaitable[Any]]


class WorkerConnection(asyncio.Protocol):
    """One worker's socket. Its end is the worker's death."""

    __slots__ = ("_out", "_reader", "_recorder", "ack_due", "ready", "transport", "worker_id")

    def __init__(self, recorder: "Recorder") -> None:
        self._recorder = recorder
        self._reader = wire.FrameReader()
        self._out: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.worker_id = ""
        self.ready = False
        self.ack_due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if self._recorder.handed_over:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._recorder.handed_over:
            return
        try:
            for kind, body in self._reader.feed(data):
                self._recorder.frame_received(self, kind, body)
        except JournalFailed:
            raise
        except TokenworksError as error:
            log.error("recorder.bad_frame", worker=self.worker_id[:8], error=str(error))
            self.close()
        except Exception as error:  # an invariant is broken: stop, the next recorder starts from the journal
            self._recorder.fatal(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._recorder.connection_lost(self)

    def send(self, kind: int, content: Any) -> bool:
        if self.transport is None or self.transport.is_closing():
            return False
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(wire.frame(kind, wire.encode(content)))
        return True

    def _flush(self) -> None:
        """One write per turn of the loop."""
        out, self._out = self._out, []
        if out and self.transport is not None and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        self._flush()
        if self.transport is not None:
            self.transport.abort()

    def leave(self) -> None:
        """What was said goes out before the end."""
        self._flush()
        if self.transport is not None:
            self.transport.close()


class Recorder:
    """Wired by the app: `grants` and `settler` are made after `recover` said what they begin with."""

    def __init__(
        self,
        journal: Journal,
        workers_dir: Path,
        answer: Answer,
        *,
        on_fatal: Callable[[BaseException], None],
        loss_budget_tokens: int = 0,
    ) -> None:
        self.journal = journal
        self._workers_dir = workers_dir
        self._answer = answer
        self._on_fatal = on_fatal
        self.grants: HostGrants
        self.limits: HostLimits
        self.queues: HostQueues
        self.settler: Settler
        self.losses = HostLosses(loss_budget_tokens, self._lossy)
        self.attempts: dict[str, OpenAttempt] = {}
        self.workers: dict[str, WorkerConnection] = {}
        self.last_message: dict[str, int] = {}
        self._awaited: set[str] = set()
        self._uncommitted: list[WorkerConnection] = []
        self._records: list[Settling] = []
        self._commit_scheduled = False
        self._committed_s = 0.0
        self._tasks: set[asyncio.Future[Any]] = set()
        self._published: dict[str, Any] = {}
        self.commit_ns_total = 0
        self.handed_over = False  # to another recorder: this one hears and writes nothing more
        self.commits = Histogram(COMMIT_US)
        self._cleaned_s = 0.0

    def fatal(self, error: BaseException) -> None:
        self._on_fatal(error)

    # Recovery.

    def recover(self, settled_seq: int, alive: Callable[[], None] = lambda: None) -> list[Settling]:
        """Read the journal from the settled sequence on: open attempts, and the records that are not settled. `alive` is called as it
        goes: a long journal takes its time.
        """
        records: list[Settling] = []
        for count, frame in enumerate(self.journal.replay(settled_seq + 1)):
            if count % ALIVE_FRAMES == 0:
                alive()
            kind, body = frame.payload[:1], frame.payload[1:]
            if kind == _CHECKPOINT:
                attempts, messages = wire.decode(body)
                self.attempts = {row[1][0]: attempt_from_wire(row) for row in attempts}
                self.last_message = dict(messages)
            elif kind == _FROM_WORKER:
                worker_id = body[:_WORKER_ID_BYTES].hex()
                number, ops = wire.decode(body[_WORKER_ID_BYTES:])
                self.last_message[worker_id] = number
                records += self._apply(worker_id, frame.seq, ops)
            elif kind == _OWN:
                records += self._apply(None, frame.seq, wire.decode(body))
            else:
                raise JournalCorrupt(f"frame {frame.seq} is of no kind that this release knows")
        if settled_seq >= self.journal.next_seq:
            raise JournalCorrupt(
                f"the database has settled {settled_seq}, but the journal ends at {self.journal.next_seq - 1}: "
                "its newest segments are missing. Restore them before this host serves, or see `tokenworks journal reset`"
            )
        return [record for record in records if record[0] > settled_seq]

    def begin(self) -> None:
        """Open a new segment and close the attempts of workers that are gone; the others are awaited."""
        self.journal.begin_segment(self._checkpoint())
        known = {attempt.worker_id for attempt in self.attempts.values()} | set(self.last_message)
        for path in self._workers_dir.glob("*.lock"):
            known.add(path.stem)
        for worker_id in known:
            if self._is_alive(worker_id):
                self._awaited.add(worker_id)
            else:
                self._lose(worker_id)
        self._commit()
        self._check_awaited()

    def _is_alive(self, worker_id: str) -> bool:
        """A worker holds a lock on a file of its name as long as it lives. Forgets one that is gone."""
        path = self._workers_dir / f"{worker_id}.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(file)

    def _check_awaited(self) -> None:
        for worker_id in list(self._awaited):
            if not self._is_alive(worker_id):
                self._awaited.discard(worker_id)
                self._lose(worker_id)
        if not self._awaited and not self.grants.open:
            self.grants.start()
            self.limits.start()

    def _checkpoint(self) -> bytes:
        attempts = [attempt.wire() for attempt in self.attempts.values()]
        return _CHECKPOINT + wire.encode([attempts, self.last_message])

    # Frames of workers.

    def frame_received(self, connection: WorkerConnection, kind: int, body: bytes) -> None:
        if kind == wire.JOURNAL:
            self._journal_frame(connection, body)
        elif kind == wire.ASK:
            for number, account_id, cap_ids, model, need, free, soft in wire.decode(body):
                self.grants.ask(
                    account_id, Ask(connection.worker_id, number, cap_ids, model, Need(*need), free, soft)
                )
        elif kind == wire.GIVE:
            for recall, account_id, given in wire.decode(body):
                self.grants.give(connection.worker_id, recall, account_id, given)
        elif kind == wire.LIMIT:
            for number, tokens, limits in wire.decode(body):
                self.limits.ask(connection.worker_id, number, tokens, limits)
        elif kind == wire.LIMIT_BACK:
            for limit_id, slot, requests, tokens, ended in wire.decode(body):
                self.limits.back(connection.worker_id, limit_id, slot, requests, tokens, ended=ended)
        elif kind == wire.QUEUE:
            for number, tokens, limits, queued in wire.decode(body):
                self.queues.ask(connection.worker_id, number, tokens, limits, queued)
        elif kind == wire.QUEUE_BACK:
            for queue, account_id, counted, used in wire.decode(body):
                self.queues.ended(connection.worker_id, queue, account_id, counted, used)
        elif kind == wire.UNQUEUE:
            for number in wire.decode(body):
                self.queues.forget(connection.worker_id, number)
        elif kind == wire.LIMIT_STATE:
            self.limits.state(connection.worker_id, wire.decode(body))
        elif kind == wire.REQUEST:
            for number, name, argument in wire.decode(body):
                self._spawn(self._reply(connection, number, name, argument))
        elif kind == wire.HELLO:
            self._hello(connection, wire.decode(body))
        elif kind == wire.STATE:
            self._state(connection, wire.decode(body))
        else:
            raise wire.WireError(f"no such frame kind: {kind}")

    def _hello(self, connection: WorkerConnection, body: list[Any]) -> None:
        worker_id = body[0]
        connection.worker_id = worker_id
        if worker_id in self.workers or (worker_id in self.last_message and worker_id not in self._awaited):
            # It was given up for dead: its attempts are closed, and it must not end them once more.
            connection.send(wire.DIE, [])
            connection.worker_id = ""
            return
        self.workers[worker_id] = connection
        connection.send(wire.WELCOME, [self.last_message.get(worker_id, 0)])

    def _state(self, connection: WorkerConnection, rows: list[Any]) -> None:
        worker_id = connection.worker_id
        for account_id, bucket_id, grant_id, outstanding in rows:
            if not self.grants.adopt_slice(worker_id, account_id, bucket_id, grant_id, outstanding):
                log.error(
                    "recorder.slice_unknown", worker=worker_id[:8], grant=grant_id, outstanding=outstanding
                )
                connection.send(wire.DIE, [])
                connection.close()
                return
        self._awaited.discard(worker_id)
        self.last_message.setdefault(worker_id, 0)
        connection.ready = True
        for name, content in self._published.items():
            connection.send(wire.PUBLISH, [name, content])
        self._check_awaited()

    def _journal_frame(self, connection: WorkerConnection, body: bytes) -> None:
        number, ops = wire.decode(body)
        worker_id = connection.worker_id
        if not connection.ready:
            raise wire.WireError("a record before the state")
        if number > self.last_message[worker_id]:
            if number != self.last_message[worker_id] + 1:
                raise wire.WireError(f"message {number} after {self.last_message[worker_id]}")
            seq = self._append(_FROM_WORKER + bytes.fromhex(worker_id) + body)
            self.last_message[worker_id] = number
            self._records += self._apply(worker_id, seq, ops)
        if not connection.ack_due:
            self._uncommitted.append(connection)
        connection.ack_due = number
        self._schedule_commit()

    def _apply(self, worker_id: str | None, seq: int, ops: list[Any]) -> list[Settling]:
        """Ops of one frame, in the journal's order. Returns the records that they complete."""
        records: list[Settling] = []
        grants = getattr(self, "grants", None)  # none while the journal is replayed
        for op in ops:
            kind = op[0]
            if kind == wire.FINISH:
                _, usage_id, account_id, used, record = op[:5]
                self.attempts.pop(usage_id, None)
                records.append((seq, account_id, used, record))
                if len(op) > 5:
                    self.losses.add(seq, account_id, op[5], op[6])
                if grants is not None:
                    grants.used(worker_id, account_id, used)
            elif kind == wire.START:
                if len(self.attempts) >= OPEN_ATTEMPTS_MAX:
                    raise wire.WireError("too many open attempts")
                assert worker_id is not None
                self.attempts[op[1]] = OpenAttempt(worker_id, op[1:])
            elif kind == wire.PROGRESS:
                attempt = self.attempts.get(op[1])
                if attempt is not None:
                    attempt.counts, attempt.first_byte_ms, attempt.progress_ms = Counts(*op[2]), op[3], op[4]
                    attempt.start[10] = op[5]  # a hold grows while its stream runs
            elif kind == wire.DROP:
                self.attempts.pop(op[1], None)
            else:
                raise wire.WireError(f"no such op: {kind}")
        return records

    def hand_over(self) -> None:
        """Another recorder takes over the journal: write what was heard, acknowledge it, and hear no more. Workers go on with that one;
        what they have not heard acknowledged they send again.
        """
        self._commit()
        self.handed_over = True
        for connection in list(self.workers.values()):
            connection.leave()

    def connection_lost(self, connection: WorkerConnection) -> None:
        if self.handed_over:
            return
        worker_id = connection.worker_id
        if self.workers.get(worker_id) is connection:
            del self.workers[worker_id]
            self._awaited.discard(worker_id)
            self._lose(worker_id)
            self._check_awaited()

    def _lose(self, worker_id: str) -> None:
        """A worker is gone: close its open attempts from their last progress, take its slices back."""
        if hasattr(self, "grants"):
            self.grants.worker_lost(worker_id)
            self.limits.worker_lost(worker_id)
            self.queues.worker_lost(worker_id)
        ops: list[list[Any]] = []
        for usage_id, attempt in self.attempts.items():
            if attempt.worker_id == worker_id:
                finish = interrupted(attempt, WORKER_LOST)
                ops.append([wire.DROP, usage_id] if finish is None else [wire.FINISH, *finish])
        if ops:
            log.warning("recorder.worker_lost", worker=worker_id[:8], open_attempts=len(ops))
            seq = self._append(_OWN + wire.encode(ops))
            self._records += self._apply(None, seq, ops)
            self._schedule_commit()

    # Commits.

    def _append(self, payload: bytes) -> int:
        """Queue a frame. A full segment is committed first; the next one begins with what is open now."""
        if not self.journal.has_room(len(payload)):
            self._commit()
            try:
                self.journal.begin_segment(self._checkpoint(), room_bytes=2 * len(payload) + 4096)
            except JournalFailed as error:
                self._on_fatal(error)
        elif self.journal.wants_next:
            self._spawn(asyncio.get_running_loop().run_in_executor(None, self.journal.prepare_next))
        return self.journal.append(payload)

    def _schedule_commit(self) -> None:
        if self._commit_scheduled or self.handed_over:
            return
        self._commit_scheduled = True
        loop = asyncio.get_running_loop()
        due_in_s = self._committed_s + COMMIT_PACE_S - time.monotonic()
        if due_in_s > 0:
            loop.call_later(due_in_s, self._commit)
        else:
            loop.call_soon(self._commit)

    def _commit(self) -> None:
        self._commit_scheduled = False
        if self.handed_over:
            return
        try:
            began_ns = time.monotonic_ns()
            self.journal.commit()
            took_ns = time.monotonic_ns() - began_ns
            self.commit_ns_total += took_ns
            self.commits.observe(took_ns // 1000)
        except JournalFailed as error:
            self._on_fatal(error)
            return
        self._committed_s = time.monotonic()
        acknowledged, self._uncommitted = self._uncommitted, []
        for connection in acknowledged:
            number, connection.ack_due = connection.ack_due, 0
            connection.send(wire.ACK, [number])
        records, self._records = self._records, []
        if records:
            self.settler.put(records)
        self.settler.advance(self.journal.next_seq - 1)

    # The wiring's own requests and news.

    def unsettled(self) -> list[Settling]:
        """Records that the database does not have yet, newest last."""
        return [*self.settler.queued(), *self._records]

    def _lossy(self, over: frozenset[str]) -> None:
        self.publish("lossy", {"accounts": sorted(over)}, keep=True)

    def publish(self, name: str, content: Any, *, keep: bool) -> None:
        """Tell every worker; what is kept is told to those who come later, too."""
        if keep:
            self._published[name] = content
        for connection in self.workers.values():
            if connection.ready:
                connection.send(wire.PUBLISH, [name, content])

    async def _reply(self, connection: WorkerConnection, number: int, name: str, argument: Any) -> None:
        try:
            answer = await self._answer(name, argument)
        except Exception as error:  # whoever asks gets an answer, and goes on with what it knows
            log.warning(
                "recorder.request_failed", name=name, error=f"{type(error).__name__}: {error}".splitlines()[0]
            )
            answer = None
        connection.send(wire.REPLY, [number, answer])

    def send(self, worker_id: str, kind: int, content: Any) -> bool:
        connection = self.workers.get(worker_id)
        return connection is not None and connection.send(kind, content)

    async def tend(self, retain_s: float) -> None:
        """Once a second: leases, workers that are awaited, segments that are settled and old."""
        self._check_awaited()
        await self.grants.tend()
        await self.limits.tend()
        self.queues.tend()
        now_s = time.monotonic()
        if now_s - self._cleaned_s > CLEAN_EVERY_S:
            self._cleaned_s = now_s
            await asyncio.get_running_loop().run_in_executor(
                None, partial(self.journal.delete_settled, self.settler.settled_seq, retain_s, time.time())
            )
        # A worker that is gone and has nothing open is forgotten with the next checkpoint.
        open_workers = {attempt.worker_id for attempt in self.attempts.values()}
        for worker_id in list(self.last_message):
            gone = (
                worker_id not in self.workers
                and worker_id not in self._awaited
                and worker_id not in open_workers
            )
            if gone and not self._is_alive(worker_id):
                del self.last_message[worker_id]

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def read_journal_id(folder: Path) -> UUID | None:
    """The id of the journal in a folder, where there is one."""
    path = folder / "id"
    return UUID(path.read_text().strip()) if path.exists() else None


def records_after(folder: Path, journal_id: UUID, seq: int) -> int:
    """How many usage records a journal has beyond a sequence. Raises `JournalCorrupt`."""
    count = 0
    for path in sorted(folder.glob("*.seg")):
        for frame in read_segment(path, journal_id, int(path.stem)):
            if frame.seq > seq:
                count += sum(op[0] == wire.FINISH for op in _ops(frame.payload))
    return count


def _ops(payload: bytes) -> list[Any]:
    kind, body = payload[:1], payload[1:]
    if kind == _CHECKPOINT:
        return []
    found: list[Any] = wire.decode(body[_WORKER_ID_BYTES:])[1] if kind == _FROM_WORKER else wire.decode(body)
    return found


def inspect_journal(folder: Path) -> dict[str, Any]:
    """What is in a journal, read without a lock: a recorder may be writing it. Damage is told, not raised."""
    journal_id = read_journal_id(folder)
    if journal_id is None:
        raise NotFound(f"there is no journal in {folder}")
    segments: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.seg")):
        first = int(path.stem)
        seen = {"frames": 0, "records": 0, "starts": 0, "last": first - 1}
        damage = None
        try:
            for frame in read_segment(path, journal_id, first):
                seen["frames"] += 1
                seen["last"] = frame.seq
                ops = _ops(frame.payload)
                seen["records"] += sum(op[0] == wire.FINISH for op in ops)
                seen["starts"] += sum(op[0] == wire.START for op in ops)
        except JournalCorrupt as error:
            damage = str(error)
        if segments and segments[-1]["last"] + 1 != first and damage is None:
            damage = f"it begins at {first}, but the segment before it ends at {segments[-1]['last']}"
        segments.append(
            {"segment": path.name, "first": first, "bytes": path.stat().st_size, "damage": damage} | seen
        )
    return {"journal_id": str(journal_id), "segments": segments}
