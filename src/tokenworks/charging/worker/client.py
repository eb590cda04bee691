"""The worker's end of the socket to the host's recorder: records out, acknowledgements and slices in.

One message per turn of the loop. What is not acknowledged is kept and sent again to the next recorder; a waiter is
called once its record is on disk, and never otherwise. What is asked is answered within `answer_wait_s`: by the recorder, or here,
where it is away or hangs (`tick`).
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
from tokenworks.charging.worker.admission import Admissions
from tokenworks.charging.worker.pending import (
    HoldWaiter,
    QuestionWait,
    SliceWait,
    UnackedMessage,
    Used,
    Waiter,
)
from tokenworks.charging.worker.slices import ASKS_MAX, AccountSlices, Hold, Slices
from tokenworks.kernel import Clock

log = structlog.get_logger()

RECONNECT_S: Final = 0.02
# A recorder that is replaced is back within this.
BACK_WITHIN_S: Final = 2.0
UNACKED_MESSAGES_MAX: Final = 100_000
REASKS_MAX: Final = 20
# A slice that runs low is filled up for this many requests like the one that found it so.
FILL_REQUESTS: Final = 64
# A start or a progress waits this long for company: one message to the recorder costs as much as ten records.
LATER_S: Final = 0.05

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")


class Attempt(Protocol):
    """What begins: asked for its start only if it is to be written before the attempt ends."""

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
        self._worker_id = worker_id
        self._slices = slices
        self._clock = clock
        self._on_publish = on_publish
        self._on_die = on_die
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = wire.FrameReader()
        self.ready = False
        self._welcomed = False
        self._away_s = self._loop.time()
        """Since when no recorder is there."""
        self._silent_s: float | None = None
        """Since when the recorder owes an answer and has said nothing at all."""
        self._closed = False
        self._number = 0
        self._unacked: deque[UnackedMessage] = deque()
        self._ops: list[WrittenOp] = []
        self._used: list[Used] = []
        self._waiters: list[tuple[Waiter, str]] = []
        self._asks: list[int] = []
        self._gives: list[SliceReturn] = []
        self._requests: list[int] = []
        self._flush_scheduled = False
        self._later: asyncio.TimerHandle | None = None
        self._starts: dict[str, Attempt] = {}
        self._asking: dict[int, SliceWait] = {}
        self._ask_number = 0
        self._questions: dict[int, QuestionWait] = {}
        self._request_number = 0
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
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._reader = wire.FrameReader()
        self._transport.write(wire.frame(wire.HELLO, wire.encode(Hello(self._worker_id, os.getpid()))))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.ready:
            self._away_s = self._loop.time()
        self.ready = False
        self._silent_s = None
        if not self._closed:
            self.connect()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    @property
    def open_messages(self) -> int:
        return len(self._unacked) + bool(self._ops) + bool(self._starts)

    # What the data plane says.

    def begin(self, usage_id: str, attempt: Attempt) -> None:
        """An attempt begins: written, not waited for. Raises `RecorderAway` where too much is not acknowledged."""
        if len(self._unacked) >= UNACKED_MESSAGES_MAX:
            raise RecorderAway("the recorder is away for too long: nothing new is begun")
        self._starts[usage_id] = attempt
        if self._later is None:
            self._later = self._loop.call_later(LATER_S, self._flush_later)

    def progress(
        self, usage_id: str, counts: Counts, first_byte_ms: int | None, now_ms: int, hold: Hold
    ) -> None:
        """What is known to have been produced so far, and what is held by now."""
        self._send_start(usage_id)
        self._ops.append(Progress(usage_id, counts, first_byte_ms, now_ms, hold.held()))
        self._schedule_later()

    def drop(self, usage_id: str) -> None:
        """The attempt gave nothing: it leaves no record."""
        if self._starts.pop(usage_id, None) is None:
            self._ops.append(Drop(usage_id))
            self._schedule_later()

    def finish(self, record: UsageRecord, waiter: Waiter, argument: str, risk_tokens: int = 0) -> None:
        """`waiter(argument)` is called once the record is on disk.

        `risk_tokens`: tokens that may have been produced and are not charged, losses included, what is unpaid not.
        """
        usage_id, account_id = record.usage_id, record.account_id
        # A start that was not sent yet need not be.
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
        """Ask for a hold that the slices here do not cover; the answer comes through `callback`. Returns what `forget` takes."""
        asking = SliceWait(account, cap_ids, model, need, callback, self._loop.time())
        if len(self._asking) >= ASKS_MAX or self._is_away():
            self._loop.call_soon(callback, None, Verdict.AWAY, 0)
            return None
        account.requests_pending += 1
        self._ask(asking)
        return asking

    def fill(self, account: AccountSlices, cap_ids: Sequence[str], model: str, need: Need) -> None:
        """A slice runs low: ask for more ahead, so that no request has to wait for it. One at a time an account."""
        account.low = False
        if account.filling or account.requests_pending or len(self._asking) >= ASKS_MAX:
            return
        account.filling = True
        ahead = Need(0, FILL_REQUESTS * need.input_tokens, FILL_REQUESTS * need.output_tokens)
        asking = SliceWait(account, cap_ids, model, ahead, None, self._loop.time())
        asking.soft = True
        self._ask(asking)

    def cancel(self, asking: SliceWait | None) -> None:
        """The client is gone: nobody waits for this answer."""
        if asking is not None:
            asking.callback = None

    def _ask(self, asking: SliceWait) -> None:
        self._ask_number += 1
        self._asking[self._ask_number] = asking
        self._asks.append(self._ask_number)
        self._schedule()

    def request(
        self,
        question: Question[Argument, Answer],
        argument: Argument,
        waiter: Callable[[Answer | None], None],
    ) -> None:
        """Ask the wiring something; `waiter(answer)`, None where the recorder can't be asked or could not answer."""

        def answered(answer: Raw | None) -> None:
            read: Answer | None = None
            if answer is not None:
                try:
                    read = question.decode_answer(answer)
                except wire.WireError:  # the client that waits hears that nobody could say
                    log.exception("client.answer_unreadable", question=question.name)
            self._guarded(waiter, read)

        if self._is_away():
            self._loop.call_soon(answered, None)
            return
        self._request_number += 1
        asked = QuestionWait(question.name, question.ask(argument), answered, self._loop.time())
        self._questions[self._request_number] = asked
        self._requests.append(self._request_number)
        self._schedule()

    def released(self, account: AccountSlices) -> None:
        """Something was released: what closing slices have free goes back."""
        given = self._slices.take_closing(account) if account.closing else None
        if given:
            self._gives.append(SliceReturn(0, account.account_id, given))
            self._schedule()

    @property
    def is_available(self) -> bool:
        """True also in the moment in which one recorder takes over from another: what is asked waits for that, and no longer."""
        return self.ready or (self._welcomed and self._loop.time() - self._away_s < BACK_WITHIN_S)

    def _is_away(self) -> bool:
        """For so long that nothing more is asked. A recorder that died is back within a second."""
        return not self.ready and self._loop.time() - self._away_s > self._answer_wait_s

    def hangs(self) -> bool:
        """Whether the recorder is connected and has said nothing for `answer_wait_s` to what it owes an answer."""
        return (
            self.ready
            and self._silent_s is not None
            and self._loop.time() - self._silent_s > self._answer_wait_s
        )

    def tick(self) -> None:
        """Once a second: who has waited for `answer_wait_s` is told that nobody answers. What comes later still counts: a grant is
        the account's, an admission ends at once.
        """
        oldest_s = self._loop.time() - self._answer_wait_s
        for number in [number for number, asking in self._asking.items() if asking.asked_s < oldest_s]:
            self._answered(number, Verdict.AWAY, 0)
        for number in [number for number, asked in self._questions.items() if asked.asked_s < oldest_s]:
            self._questions.pop(number).answered(None)
        self.admissions.give_up(self._answer_wait_s)

    # One message per turn.

    def _schedule(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _schedule_later(self) -> None:
        """For what nobody waits for: it goes with what somebody does, or in a moment by itself."""
        if self._later is None:
            self._later = self._loop.call_later(LATER_S, self._flush_later)

    def _send_start(self, usage_id: str) -> None:
        begun = self._starts.pop(usage_id, None)
        if begun is not None:
            self._ops.append(begun.start_op())

    def _flush_later(self) -> None:
        self._later = None
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
        # Records go first: what they used is used before anything is given back or asked for.
        if self._gives:
            out.append(wire.frame(wire.SLICE_RETURN, wire.encode(self._gives)))
            self._gives = []
        if self._asks:
            asks = [self._slice_request(number) for number in self._asks if number in self._asking]
            self._asks = []
            out.append(wire.frame(wire.SLICE_REQUEST, wire.encode(asks)))
        out += self.admissions.frames()
        if self._requests:
            requests = [
                Request(number, self._questions[number].name, self._questions[number].argument)
                for number in self._requests
                if number in self._questions
            ]
            self._requests = []
            out.append(wire.frame(wire.REQUEST, wire.encode(requests)))
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._silent_s is None and (self._unacked or self._asking or self._questions):
                self._silent_s = self._loop.time()

    def _slice_request(self, number: int) -> SliceRequest:
        asking = self._asking[number]
        free = {s.terms.bucket_id: s.free for s in asking.account.all() if not s.closing and s.free}
        return SliceRequest(
            number, asking.account.account_id, asking.cap_ids, asking.model, asking.need, free, asking.soft
        )

    # What the recorder says.

    def data_received(self, data: bytes) -> None:
        """Raises `WireError`: the loop closes the connection, and the next one begins anew."""
        self._silent_s = None
        for kind, body in self._reader.feed(data):
            self._frame_received(kind, body)
        if self._unacked or self._asking or self._questions:
            self._silent_s = self._loop.time()

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
            given = self._slices.recall(recall.account_id, recall.bucket_ids, recall.closing)
            self._gives.append(SliceReturn(recall.number, recall.account_id, given))
            self._schedule()
        elif kind == wire.LIMIT_ANSWER:
            for limited in wire.decode_limit_answers(body):
                self.admissions.answered(limited)
        elif kind == wire.QUEUE_ANSWER:
            for queued in wire.decode_queue_answers(body):
                self.admissions.answered(queued)
        elif kind == wire.REPLY:
            reply = wire.decode_reply(body)
            asked = self._questions.pop(reply.number, None)
            if asked is not None:
                asked.answered(None if bytes(reply.answer) == NIL else reply.answer)
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
        except Exception:  # one waiter's failure must not wedge those behind it
            log.exception("client.waiter_failed")

    def _answered(self, number: int, verdict: Verdict, back_s: int) -> None:
        asking = self._asking.pop(number, None)
        if asking is None:
            return
        if asking.soft:
            asking.account.filling = False
            return
        account = self._slices.account(asking.account.account_id)
        asking.account = account
        hold = None
        if asking.callback is not None:
            hold = self._slices.hold(
                account, asking.cap_ids, asking.model, asking.need, self._clock.boot_ns()
            )
            if hold is None and verdict == Verdict.ENOUGH:
                asking.tries += 1
                if asking.tries < REASKS_MAX:
                    self._ask(asking)
                    return
                verdict = Verdict.ELSEWHERE
        account.requests_pending = max(0, account.requests_pending - 1)
        if asking.callback is not None:
            try:
                asking.callback(hold, Verdict.ENOUGH if hold is not None else verdict, back_s)
            except Exception:  # as above
                log.exception("client.waiter_failed")

    def _welcome(self, last_number: int) -> None:
        """A recorder: tell it what we have as of the last message it knows, then send it the rest."""
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
        self._gives.clear()
        self._transport.write(
            wire.frame(wire.STATE, wire.encode(rows))
            + self.admissions.state()
            + b"".join(message.data for message in self._unacked)
        )
        self.ready = self._welcomed = True
        self._asks = list(self._asking)
        self._requests = list(self._questions)
        self._schedule()


__all__ = ["HoldWaiter", "RecorderClient", "SliceWait"]
