"""The worker's end of the socket to the host's recorder: records out, acknowledgements and slices in.

One message per turn of the loop. What is not acknowledged is kept and sent again to the next recorder; a waiter is called once its
record is on disk, and never otherwise. A request is answered within `answer_wait_s`: by the recorder, or by the client itself if the
recorder is away or hangs (`tick`).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, cast

import structlog
from msgspec import Raw

from tokenworks.catalog import Counts
from tokenworks.charging import wire
from tokenworks.charging.errors import RecorderAway
from tokenworks.charging.messages import (
    Amount,
    Drop,
    Finish,
    FinishAtRisk,
    Hello,
    Need,
    Progress,
    Request,
    SliceRequest,
    SliceReturn,
    SliceState,
    Start,
    UsageRecord,
    Verdict,
    WrittenBatch,
    WrittenOp,
)
from tokenworks.charging.model import encode_record
from tokenworks.charging.questions import NIL, Question
from tokenworks.charging.worker.account import AccountSlices, Hold
from tokenworks.charging.worker.admission import Admissions
from tokenworks.charging.worker.pending import (
    HoldWaiter,
    QuestionWait,
    SliceWait,
    UnackedMessage,
    Used,
    Waiter,
)
from tokenworks.charging.worker.slices import Slices
from tokenworks.kernel import Clock

log = structlog.get_logger()

RECONNECT_S: Final = 0.02
# The next recorder is connected within this time after the last one left.
RECONNECTED_WITHIN_S: Final = 2.0
UNACKED_MESSAGES_MAX: Final = 100_000
# The most slice requests that wait for an answer.
SLICE_REQUESTS_MAX: Final = 10_000
# A slice request is sent at most this many times, if other requests took what came for it.
TRIES_MAX: Final = 20
# A slice that runs low is filled up for this many requests like the one that found it low.
PREFETCH_REQUESTS: Final = 64
# A start or a progress is sent with the next message, at the latest after this time: a message costs as much as ten records.
FLUSH_DELAY_S: Final = 0.05

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")


class BegunAttempt(Protocol):
    """An attempt that has begun. `start_op` is called only if the start is written before the attempt ends."""

    def start_op(self) -> Start: ...


class RecorderClient(asyncio.Protocol):
    def __init__(
        self,
        path: str,
        worker_id: str,
        slices: Slices,
        clock: Clock,
        *,
        answer_wait_s: float,
        on_publish: Callable[[str, Raw], None],
        on_die: Callable[[], None],
    ) -> None:
        self._answer_wait_s = answer_wait_s
        self._path = path
        self.worker_id = worker_id
        self._slices = slices
        self._clock = clock
        self._on_publish = on_publish
        self._on_die = on_die
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = wire.FrameReader()
        self.ready = False
        self._welcomed = False
        self._disconnected_s = self._loop.time()
        """When the connection was lost, or the client was made."""
        self._owed_since_s: float | None = None
        """Since when the recorder owes an answer and has sent nothing at all; None where it owes none."""
        self._closed = False
        self._number = 0
        self._unacked: deque[UnackedMessage] = deque()
        self._ops: list[WrittenOp] = []
        self._used: list[Used] = []
        self._waiters: list[tuple[Waiter, str]] = []
        self._unsent_slice_requests: list[int] = []
        self._unsent_returns: list[SliceReturn] = []
        self._unsent_questions: list[int] = []
        self._flush_scheduled = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._starts: dict[str, BegunAttempt] = {}
        self._slice_waits: dict[int, SliceWait] = {}
        self._slice_request_number = 0
        self._question_waits: dict[int, QuestionWait] = {}
        self._question_number = 0
        self.admissions = Admissions(clock, self._schedule)

    # Connection.

    def connect(self) -> None:
        self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        while not self._closed:
            try:
                await self._loop.create_unix_connection(lambda: self, self._path)
                return
            except OSError:
                await asyncio.sleep(RECONNECT_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has all methods of asyncio's, but is no subclass.
        self._transport = cast("asyncio.Transport", transport)
        self._reader = wire.FrameReader()
        self._transport.write(wire.frame(wire.HELLO, wire.encode(Hello(self.worker_id, os.getpid()))))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.ready:
            self._disconnected_s = self._loop.time()
        self.ready = False
        self._owed_since_s = None
        if not self._closed:
            self.connect()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    @property
    def open_messages(self) -> int:
        return len(self._unacked) + bool(self._ops) + bool(self._starts)

    # Calls of the data plane.

    def begin(self, usage_id: str, attempt: BegunAttempt) -> None:
        """Write that an attempt begins, without waiting for it. Raises `RecorderAway` where too much is not acknowledged."""
        if len(self._unacked) >= UNACKED_MESSAGES_MAX:
            raise RecorderAway("the recorder is away for too long: nothing new is begun")
        self._starts[usage_id] = attempt
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_DELAY_S, self._flush_delayed)

    def progress(
        self, usage_id: str, counts: Counts, first_byte_ms: int | None, now_ms: int, hold: Hold
    ) -> None:
        """Write what the attempt is known to have produced so far, and what it holds by now."""
        self._send_start(usage_id)
        self._ops.append(Progress(usage_id, counts, first_byte_ms, now_ms, hold.held()))
        self._schedule_delayed()

    def drop(self, usage_id: str) -> None:
        """End an attempt that produced nothing and leaves no record."""
        if self._starts.pop(usage_id, None) is None:
            self._ops.append(Drop(usage_id))
            self._schedule_delayed()

    def finish(self, record: UsageRecord, waiter: Waiter, argument: str, risk_tokens: int = 0) -> None:
        """End an attempt with its record; `waiter(argument)` is called once the record is on disk.

        `risk_tokens`: tokens that may have been produced and are not charged, with the losses and without what is unpaid.
        """
        usage_id, account_id = record.usage_id, record.account_id
        # A start that was not sent yet is left out.
        self._starts.pop(usage_id, None)
        used = [Amount(part.bucket_id, part.grant_id, part.amount) for part in record.parts]
        if risk_tokens:
            record.risk_tokens = risk_tokens
            self._ops.append(
                FinishAtRisk(usage_id, account_id, used, encode_record(record), record.ended_ms, risk_tokens)
            )
        else:
            self._ops.append(Finish(usage_id, account_id, used, encode_record(record)))
        self._used.append((account_id, used))
        self._waiters.append((waiter, argument))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def request_slices(
        self, account: AccountSlices, cap_ids: Sequence[str], model: str, need: Need, callback: HoldWaiter
    ) -> SliceWait | None:
        """Request slices for a hold that the account's slices do not cover. `callback` gets the hold, or a verdict. Return the argument of
        `cancel`.
        """
        wait = SliceWait(account, cap_ids, model, need, callback, self._loop.time())
        if len(self._slice_waits) >= SLICE_REQUESTS_MAX or self._is_away():
            self._loop.call_soon(callback, None, Verdict.AWAY, 0)
            return None
        account.requests_pending += 1
        self._queue_slice_request(wait)
        return wait

    def prefetch(self, account: AccountSlices, cap_ids: Sequence[str], model: str, need: Need) -> None:
        """Request more ahead, as a slice runs low, so that no request waits for it. An account has one prefetch at a time."""
        account.low = False
        if account.prefetching or account.requests_pending or len(self._slice_waits) >= SLICE_REQUESTS_MAX:
            return
        account.prefetching = True
        ahead = Need(0, PREFETCH_REQUESTS * need.input_tokens, PREFETCH_REQUESTS * need.output_tokens)
        wait = SliceWait(account, cap_ids, model, ahead, None, self._loop.time())
        wait.prefetch = True
        self._queue_slice_request(wait)

    def cancel(self, wait: SliceWait | None) -> None:
        """Drop the callback of a slice request: its client is gone."""
        if wait is not None:
            wait.callback = None

    def _queue_slice_request(self, wait: SliceWait) -> None:
        self._slice_request_number += 1
        self._slice_waits[self._slice_request_number] = wait
        self._unsent_slice_requests.append(self._slice_request_number)
        self._schedule()

    def request(
        self,
        question: Question[Argument, Answer],
        argument: Argument,
        waiter: Callable[[Answer | None], None],
    ) -> None:
        """Send a question to the wiring. `waiter` gets the answer, or None where the recorder is away or could not answer."""

        def on_answer(answer: Raw | None) -> None:
            decoded: Answer | None = None
            if answer is not None:
                try:
                    decoded = question.decode_answer(answer)
                except wire.WireError:  # the waiter gets None, as for a question without an answer
                    log.exception("client.answer_unreadable", question=question.name)
            self._guarded(waiter, decoded)

        if self._is_away():
            self._loop.call_soon(on_answer, None)
            return
        self._question_number += 1
        wait = QuestionWait(question.name, question.ask(argument), on_answer, self._loop.time())
        self._question_waits[self._question_number] = wait
        self._unsent_questions.append(self._question_number)
        self._schedule()

    def released(self, account: AccountSlices) -> None:
        """A hold was released: return what closing slices of the account have free."""
        returned = self._slices.take_closing(account) if account.closing else None
        if returned:
            self._unsent_returns.append(SliceReturn(0, account.account_id, returned))
            self._schedule()

    @property
    def is_available(self) -> bool:
        """True if a recorder is connected, or the next one is expected within a moment: requests then wait for that one."""
        return self.ready or (
            self._welcomed and self._loop.time() - self._disconnected_s < RECONNECTED_WITHIN_S
        )

    def _is_away(self) -> bool:
        """True if no recorder was connected for so long that requests are refused at once. A recorder that died is back in a second."""
        return not self.ready and self._loop.time() - self._disconnected_s > self._answer_wait_s

    def hangs(self) -> bool:
        """True if the recorder is connected, owes an answer and has sent nothing for `answer_wait_s`."""
        return (
            self.ready
            and self._owed_since_s is not None
            and self._loop.time() - self._owed_since_s > self._answer_wait_s
        )

    def tick(self) -> None:
        """Called once a second: give up requests older than `answer_wait_s`. An answer that comes later still counts: a slice is added
        to the account, and an admission is ended at once.
        """
        oldest_s = self._loop.time() - self._answer_wait_s
        for number in [number for number, wait in self._slice_waits.items() if wait.sent_s < oldest_s]:
            self._answered(number, Verdict.AWAY, 0)
        for number in [number for number, wait in self._question_waits.items() if wait.sent_s < oldest_s]:
            self._question_waits.pop(number).on_answer(None)
        self.admissions.give_up(self._answer_wait_s)

    # One message per turn.

    def _schedule(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _schedule_delayed(self) -> None:
        """Flush within `FLUSH_DELAY_S`: for what no client waits for, which goes with an earlier message if there is one."""
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_DELAY_S, self._flush_delayed)

    def _send_start(self, usage_id: str) -> None:
        begun = self._starts.pop(usage_id, None)
        if begun is not None:
            self._ops.append(begun.start_op())

    def _flush_delayed(self) -> None:
        self._flush_timer = None
        for usage_id in list(self._starts):
            self._send_start(usage_id)
        self._flush()

    def _flush(self) -> None:
        self._flush_scheduled = False
        out = []
        if self._ops:
            self._number += 1
            data = wire.frame(wire.JOURNAL, wire.encode(WrittenBatch(self._number, self._ops)))
            self._unacked.append(UnackedMessage(self._number, data, self._used, self._waiters))
            self._ops, self._used, self._waiters = [], [], []
            out.append(data)
        if not self.ready:
            return
        # Records go first: what they used must be used before anything is returned or requested.
        if self._unsent_returns:
            out.append(wire.frame(wire.SLICE_RETURN, wire.encode(self._unsent_returns)))
            self._unsent_returns = []
        if self._unsent_slice_requests:
            slice_requests = [
                self._slice_request(number)
                for number in self._unsent_slice_requests
                if number in self._slice_waits
            ]
            self._unsent_slice_requests = []
            out.append(wire.frame(wire.SLICE_REQUEST, wire.encode(slice_requests)))
        out += self.admissions.frames()
        if self._unsent_questions:
            questions = [
                Request(number, self._question_waits[number].name, self._question_waits[number].argument)
                for number in self._unsent_questions
                if number in self._question_waits
            ]
            self._unsent_questions = []
            out.append(wire.frame(wire.REQUEST, wire.encode(questions)))
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._owed_since_s is None and (self._unacked or self._slice_waits or self._question_waits):
                self._owed_since_s = self._loop.time()

    def _slice_request(self, number: int) -> SliceRequest:
        wait = self._slice_waits[number]
        free = {s.terms.bucket_id: s.free for s in wait.account.all() if not s.closing and s.free}
        return SliceRequest(
            number, wait.account.account_id, wait.cap_ids, wait.model, wait.need, free, wait.prefetch
        )

    # Frames of the recorder.

    def data_received(self, data: bytes) -> None:
        """Raises `WireError`: the loop closes the connection, and a new one is made."""
        self._owed_since_s = None
        for kind, body in self._reader.feed(data):
            self._frame_received(kind, body)
        if self._unacked or self._slice_waits or self._question_waits:
            self._owed_since_s = self._loop.time()

    def _frame_received(self, kind: int, body: bytes) -> None:
        if kind == wire.ACK:
            self._acknowledged(wire.decode_ack(body).number)
        elif kind == wire.SLICE_GRANT:
            for grant in wire.decode_slice_grants(body):
                self._slices.receive(
                    grant.account_id, grant.grant_id, grant.terms, grant.amount, grant.spend_until_boot_ns
                )
        elif kind == wire.SLICE_ANSWER:
            for answer in wire.decode_slice_answers(body):
                self._answered(answer.number, *wire.verdict_of(answer.code))
        elif kind == wire.RECALL:
            recall = wire.decode_recall(body)
            returned = self._slices.recall(recall.account_id, recall.bucket_ids, recall.closing)
            self._unsent_returns.append(SliceReturn(recall.number, recall.account_id, returned))
            self._schedule()
        elif kind == wire.LIMIT_ANSWER:
            for limited in wire.decode_limit_answers(body):
                self.admissions.answered(limited)
        elif kind == wire.QUEUE_ANSWER:
            for queued in wire.decode_queue_answers(body):
                self.admissions.answered(queued)
        elif kind == wire.REPLY:
            reply = wire.decode_reply(body)
            wait = self._question_waits.pop(reply.number, None)
            if wait is not None:
                wait.on_answer(None if bytes(reply.answer) == NIL else reply.answer)
        elif kind == wire.PUBLISH:
            news = wire.decode_publication(body)
            self._on_publish(news.name, news.content)
        elif kind == wire.WELCOME:
            self._welcome(wire.decode_welcome(body).last_number)
        elif kind == wire.FENCE:
            self._on_die()

    def _acknowledged(self, number: int) -> None:
        unacked = self._unacked
        while unacked and unacked[0].number <= number:
            message = unacked.popleft()
            for waiter, argument in message.waiters:
                self._guarded(waiter, argument)

    @staticmethod
    def _guarded(waiter: Callable[[Argument], None], argument: Argument) -> None:
        try:
            waiter(argument)
        except Exception:  # the failure of one waiter must not stop the others
            log.exception("client.waiter_failed")

    def _answered(self, number: int, verdict: Verdict, back_s: int) -> None:
        wait = self._slice_waits.pop(number, None)
        if wait is None:
            return
        if wait.prefetch:
            wait.account.prefetching = False
            return
        account = self._slices.account(wait.account.account_id)
        wait.account = account
        hold = None
        if wait.callback is not None:
            hold = self._slices.hold(account, wait.cap_ids, wait.model, wait.need, self._clock.boot_ns())
            if hold is None and verdict == Verdict.ENOUGH:
                wait.tries += 1
                if wait.tries < TRIES_MAX:
                    self._queue_slice_request(wait)
                    return
                verdict = Verdict.ELSEWHERE
        account.requests_pending = max(0, account.requests_pending - 1)
        if wait.callback is not None:
            try:
                wait.callback(hold, Verdict.ENOUGH if hold is not None else verdict, back_s)
            except Exception:  # as above
                log.exception("client.waiter_failed")

    def _welcome(self, last_number: int) -> None:
        """A recorder took the connection: send it what this worker has as of the last message that it knows, then the later ones."""
        self._acknowledged(last_number)
        outstanding: dict[tuple[str, str, str], int] = {}
        for account_id, bucket_id, grant_id, amount in self._slices.outstanding():
            outstanding[account_id, bucket_id, grant_id] = amount
        for account_id, parts in [used for message in self._unacked for used in message.used] + self._used:
            for part in parts:
                key = (account_id, part.bucket_id, part.grant_id)
                outstanding[key] = outstanding.get(key, 0) + part.amount
        assert self._transport is not None
        rows = [SliceState(*key, amount) for key, amount in outstanding.items()]
        self._unsent_returns.clear()
        self._transport.write(
            wire.frame(wire.STATE, wire.encode(rows))
            + self.admissions.state()
            + b"".join(message.data for message in self._unacked)
        )
        self.ready = self._welcomed = True
        self._unsent_slice_requests = list(self._slice_waits)
        self._unsent_questions = list(self._question_waits)
        self._schedule()


__all__ = ["HoldWaiter", "RecorderClient", "SliceWait"]
