"""The host's charging agent: owns the journal, the host's grants and the settlement. One process a host.

What a worker reports is durable when it is acknowledged. The event loop writes the journal itself (O_DSYNC): while the disk writes,
messages gather in the sockets, and the next commit takes all of them, so that group commit needs no other thread.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from msgspec import Raw

from tokenworks.charging import wire
from tokenworks.charging.errors import JournalCorrupt, JournalFailed
from tokenworks.charging.host.account import PendingSliceRequest
from tokenworks.charging.host.attempts import OPEN_ATTEMPTS_MAX, WORKER_LOST, interrupted
from tokenworks.charging.host.grants import HostGrants
from tokenworks.charging.host.journal import Journal
from tokenworks.charging.host.limits import HostLimits
from tokenworks.charging.host.losses import HostLosses
from tokenworks.charging.host.queues import HostQueues
from tokenworks.charging.host.settlement import Settler
from tokenworks.charging.host.worker_connection import WorkerConnection
from tokenworks.charging.ledger.settle_rows import UnsettledRecord
from tokenworks.charging.messages import (
    Ack,
    Checkpoint,
    Drop,
    Finish,
    FinishAtRisk,
    Hello,
    JournalOp,
    OpenAttempt,
    Progress,
    Publication,
    Reply,
    Request,
    SliceState,
    Start,
    Welcome,
    WrittenOp,
)
from tokenworks.charging.payload import (
    WorkerPayload,
    checkpoint_payload,
    own_payload,
    read_payload,
    worker_payload,
)
from tokenworks.charging.questions import LOSSY_ACCOUNTS, NIL, Topic
from tokenworks.charging.wiring_messages import LossyAccounts
from tokenworks.kernel import Histogram

log = structlog.get_logger()

# Under load a commit is made at most every 3 ms, as it costs the same whatever it holds. A message that comes alone does not wait.
# Not Final, so that tests can set it: a compiled module has the value of a Final built in.
COMMIT_PACE_S = 0.003
CLEAN_EVERY_S: Final = 30.0
# While a journal is read, `alive` is called once in so many frames.
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
Content = TypeVar("Content")
AnswerQuestion = Callable[[str, Raw], Awaitable[Raw]]
"""The wiring: (a question's name, its argument) -> its answer."""


class Recorder:
    """Wired by the app, which makes `grants` and `settler` after `recover`, from what it returns. `answer`: the wiring's answers."""

    def __init__(
        self,
        journal: Journal,
        workers_dir: Path,
        answer: AnswerQuestion,
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
        self.losses = HostLosses(loss_budget_tokens, self._publish_lossy)
        self.attempts: dict[str, OpenAttempt] = {}
        self.workers: dict[str, WorkerConnection] = {}
        self.last_message: dict[str, int] = {}
        self._awaited: set[str] = set()
        self._uncommitted: list[WorkerConnection] = []
        self._records: list[UnsettledRecord] = []
        self._commit_scheduled = False
        self._committed_s = 0.0
        self._tasks: set[asyncio.Future[object]] = set()
        self._published: dict[str, Publication] = {}
        self.commit_ns_total = 0
        self.handed_over = False  # to another recorder: this one reads and writes nothing more
        self.commits = Histogram(COMMIT_US)
        self._cleaned_s = 0.0
        # Called with the requests, by account, whose attempts ended with their worker. None: nothing waits for that.
        self.on_lost: Callable[[Mapping[str, list[str]]], None] | None = None

    def fatal(self, error: BaseException) -> None:
        self._on_fatal(error)

    # Recovery.

    def recover(self, settled_seq: int, alive: Callable[[], None] = lambda: None) -> list[UnsettledRecord]:
        """Read the open attempts and the records that are not settled from the journal. Return these records. `alive` is called on the
        way, as a long journal takes a while.
        """
        records: list[UnsettledRecord] = []
        for count, frame in enumerate(self.journal.replay(settled_seq + 1)):
            if count % ALIVE_FRAMES == 0:
                alive()
            content = read_payload(frame.seq, frame.payload)
            if isinstance(content, Checkpoint):
                self.attempts = {attempt.start.usage_id: attempt for attempt in content.attempts}
                self.last_message = dict(content.last_message)
            elif isinstance(content, WorkerPayload):
                self.last_message[content.worker_id] = content.batch.number
                records += self._apply(content.worker_id, frame.seq, content.batch.ops)
            else:
                records += self._apply(None, frame.seq, content.ops)
        if settled_seq >= self.journal.next_seq:
            raise JournalCorrupt(
                f"the database has settled {settled_seq}, but the journal ends at {self.journal.next_seq - 1}: "
                "its newest segments are missing. Restore them before this host serves, or see `tokenworks journal reset`"
            )
        return [record for record in records if record[0] > settled_seq]

    def begin(self) -> None:
        """Open a new segment, close the attempts of workers that are gone, and await the others."""
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
        """True if the worker lives: it holds a lock on a file of its name. The file of a worker that is gone is deleted."""
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
        return checkpoint_payload(list(self.attempts.values()), self.last_message)

    # Frames of workers.

    def frame_received(self, connection: WorkerConnection, kind: int, body: bytes) -> None:
        worker_id = connection.worker_id
        if kind == wire.JOURNAL:
            self._journal_frame(connection, body)
        elif kind == wire.SLICE_REQUEST:
            for slice_request in wire.decode_slice_requests(body):
                pending = PendingSliceRequest.of(worker_id, slice_request)
                self.grants.request(slice_request.account_id, pending)
        elif kind == wire.SLICE_RETURN:
            for slice_return in wire.decode_slice_returns(body):
                self.grants.take_back(
                    worker_id, slice_return.recall_number, slice_return.account_id, slice_return.amounts
                )
        elif kind == wire.LIMIT_REQUEST:
            for limit_request in wire.decode_limit_requests(body):
                self.limits.request(worker_id, limit_request)
        elif kind == wire.LIMIT_RETURN:
            for limit_return in wire.decode_limit_returns(body):
                self.limits.return_unused(worker_id, limit_return)
        elif kind == wire.QUEUE_REQUEST:
            for queue_request in wire.decode_queue_requests(body):
                self.queues.request(worker_id, queue_request)
        elif kind == wire.QUEUE_RETURN:
            for queue_return in wire.decode_queue_returns(body):
                self.queues.request_ended(worker_id, queue_return)
        elif kind == wire.QUEUE_LEAVE:
            for number in wire.decode_queue_leaves(body):
                self.queues.cancel(worker_id, number)
        elif kind == wire.LIMIT_STATE:
            self.limits.adopt_state(worker_id, wire.decode_limit_state(body))
        elif kind == wire.REQUEST:
            for question in wire.decode_requests(body):
                self._spawn(self._reply(connection, question))
        elif kind == wire.HELLO:
            self._hello(connection, wire.decode_hello(body))
        elif kind == wire.STATE:
            self._state(connection, wire.decode_state(body))
        else:
            raise wire.WireError(f"no such frame kind: {kind}")

    def _hello(self, connection: WorkerConnection, hello: Hello) -> None:
        worker_id = hello.worker_id
        connection.worker_id = worker_id
        if worker_id in self.workers or (worker_id in self.last_message and worker_id not in self._awaited):
            # The worker was taken for dead and its attempts are closed: it must not end them again.
            connection.send(wire.FENCE, [])
            connection.worker_id = ""
            return
        self.workers[worker_id] = connection
        connection.send(wire.WELCOME, Welcome(self.last_message.get(worker_id, 0)))

    def _state(self, connection: WorkerConnection, slices: list[SliceState]) -> None:
        worker_id = connection.worker_id
        for held in slices:
            if not self.grants.adopt_slice(
                worker_id, held.account_id, held.bucket_id, held.grant_id, held.outstanding
            ):
                log.error(
                    "recorder.slice_unknown",
                    worker=worker_id[:8],
                    grant=held.grant_id,
                    outstanding=held.outstanding,
                )
                connection.send(wire.FENCE, [])
                connection.close()
                return
        self._awaited.discard(worker_id)
        self.last_message.setdefault(worker_id, 0)
        connection.ready = True
        for publication in self._published.values():
            connection.send(wire.PUBLISH, publication)
        self._check_awaited()

    def _journal_frame(self, connection: WorkerConnection, body: bytes) -> None:
        batch = wire.decode_journal(body)
        number, worker_id = batch.number, connection.worker_id
        if not connection.ready:
            raise wire.WireError("a record before the state")
        if number > self.last_message[worker_id]:
            if number != self.last_message[worker_id] + 1:
                raise wire.WireError(f"message {number} after {self.last_message[worker_id]}")
            seq = self._append(worker_payload(worker_id, body))
            self.last_message[worker_id] = number
            self._records += self._apply(worker_id, seq, batch.ops)
        if not connection.ack_due:
            self._uncommitted.append(connection)
        connection.ack_due = number
        self._schedule_commit()

    def _apply(
        self, worker_id: str | None, seq: int, ops: Sequence[JournalOp | WrittenOp]
    ) -> list[UnsettledRecord]:
        """Apply the operations of one frame, in the journal's order. Return the records that they complete."""
        records: list[UnsettledRecord] = []
        grants = getattr(self, "grants", None)  # none while the journal is replayed
        for op in ops:
            usage_id = op.usage_id
            if isinstance(op, Finish):
                account_id, used = op.account_id, op.used
                self.attempts.pop(usage_id, None)
                records.append((seq, account_id, used, op.record))
                if isinstance(op, FinishAtRisk) and op.risk_tokens:
                    self.losses.add(seq, account_id, op.ended_ms, op.risk_tokens)
                if grants is not None:
                    grants.record_used(worker_id, account_id, used)
            elif isinstance(op, Start):
                if len(self.attempts) >= OPEN_ATTEMPTS_MAX:
                    raise wire.WireError("too many open attempts")
                assert worker_id is not None
                self.attempts[usage_id] = OpenAttempt(worker_id, op, None, None, op.started_ms)
            elif isinstance(op, Progress):
                attempt = self.attempts.get(usage_id)
                if attempt is not None:
                    attempt.counts, attempt.first_byte_ms = op.counts, op.first_byte_ms
                    attempt.progress_ms = op.now_ms
                    attempt.start.held = op.held  # a hold grows while its stream runs
            else:
                self.attempts.pop(usage_id, None)
        return records

    def hand_over(self) -> None:
        """Hand the journal over to another recorder: write what was received, acknowledge it, and read no more. Workers connect to the
        other recorder, and send again what is not acknowledged.
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
        """Close the open attempts of a worker that is gone, from their last progress, and take its slices back."""
        if hasattr(self, "grants"):
            self.grants.worker_lost(worker_id)
            self.limits.worker_lost(worker_id)
            self.queues.worker_lost(worker_id)
        ops: list[WrittenOp] = []
        lost: dict[str, list[str]] = {}
        for usage_id, attempt in self.attempts.items():
            if attempt.worker_id == worker_id:
                ops.append(interrupted(attempt, WORKER_LOST) or Drop(usage_id))
                lost.setdefault(attempt.start.account_id, []).append(attempt.start.request_id)
        if ops:
            log.warning("recorder.worker_lost", worker=worker_id[:8], open_attempts=len(ops))
            seq = self._append(own_payload(ops))
            self._records += self._apply(None, seq, ops)
            self._schedule_commit()
            if self.on_lost is not None:
                self.on_lost(lost)

    # Commits.

    def _append(self, payload: bytes) -> int:
        """Queue a frame for the next commit. A full segment is committed first; the next one begins with what is open now."""
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
            connection.send(wire.ACK, Ack(number))
        records, self._records = self._records, []
        if records:
            self.settler.put(records)
        self.settler.advance(self.journal.next_seq - 1)

    # Questions to the wiring, and what it publishes.

    def live_workers(self) -> frozenset[str]:
        """The workers whose attempts are not closed: connected ones, and those that an earlier recorder left and that live."""
        return frozenset((*self.workers, *self._awaited))

    def unsettled(self) -> list[UnsettledRecord]:
        """Records that the database does not have yet, newest last."""
        return [*self.settler.queued(), *self._records]

    def _publish_lossy(self, over: frozenset[str]) -> None:
        self.publish(LOSSY_ACCOUNTS, LossyAccounts(sorted(over)), keep=True)

    def publish(self, topic: Topic[Content], content: Content, *, keep: bool) -> None:
        """Send content to every worker. With `keep`, workers that connect later get it, too."""
        publication = Publication(topic.name, topic.encode(content))
        if keep:
            self._published[topic.name] = publication
        for connection in self.workers.values():
            if connection.ready:
                connection.send(wire.PUBLISH, publication)

    async def _reply(self, connection: WorkerConnection, request: Request) -> None:
        try:
            answer = await self._answer(request.name, request.argument)
        except Exception as error:  # the worker gets an empty answer, and continues with what it knows
            log.warning(
                "recorder.request_failed",
                name=request.name,
                error=f"{type(error).__name__}: {error}".splitlines()[0],
            )
            answer = Raw(NIL)
        connection.send(wire.REPLY, Reply(request.number, answer))

    def send(self, worker_id: str, kind: int, content: object) -> bool:
        connection = self.workers.get(worker_id)
        return connection is not None and connection.send(kind, content)

    async def tend(self, retain_s: float) -> None:
        """Called once a second: tend grants, limits and queues, check awaited workers, delete segments that are settled and old."""
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
        # The next checkpoint leaves out a worker that is gone and has nothing open.
        open_workers = {attempt.worker_id for attempt in self.attempts.values()}
        for worker_id in list(self.last_message):
            gone = (
                worker_id not in self.workers
                and worker_id not in self._awaited
                and worker_id not in open_workers
            )
            if gone and not self._is_alive(worker_id):
                del self.last_message[worker_id]

    def _spawn(self, coroutine: Awaitable[object]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
