"""One metered request from its key to its usage record, in the order of its steps.

No step blocks: a step that needs an answer of another process goes on in a callback. The parts (`parts`) do the steps, and an
`Attempt` reads the response of the upstream. Until content was sent to the client another deployment may be tried; after that an
attempt ends as complete or interrupted, with a usage record in both cases. The end of the response is withheld until that is on disk.
"""

from collections.abc import Callable

from tokenworks.catalog import Counts
from tokenworks.charging import Admission, Hold, Limit, Verdict
from tokenworks.factory import FLEX, Candidate
from tokenworks.gateway.counting import TokenizerCounts, TokenizerJob
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal, error_event
from tokenworks.gateway.protocol.usage import Usage
from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request import count_tokens, credentials, opening
from tokenworks.gateway.request.attempt import FOR_CLIENT, Attempt
from tokenworks.gateway.request.compacting import needs_preparing, prepare
from tokenworks.gateway.request.ending import write_end
from tokenworks.gateway.request.fallback import NOTHING_LEFT, cause_of_fault
from tokenworks.gateway.request.faults import client_refusal, refusal_for, vendor_fault
from tokenworks.gateway.request.hold import outgrows
from tokenworks.gateway.request.leaving import leave
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.place import pass_over
from tokenworks.gateway.request.rate_headers import refused_lines
from tokenworks.gateway.request.record import AttemptCharge
from tokenworks.gateway.request.refusals import CUT, over_limit
from tokenworks.gateway.request.replay import Replay
from tokenworks.gateway.request.reply import broke_off, end_stream, write_whole
from tokenworks.gateway.request.state import HeldRequest, TranslatedRequest
from tokenworks.gateway.request.stored_answer import begin_replays
from tokenworks.gateway.request.translating import speaks


class Exchange(HeldRequest):
    __slots__ = ("_on_ended", "attempt", "parts", "replay", "shared")

    def __init__(
        self,
        parts: Parts,
        ended: "Callable[[Exchange], None]",
        conn: ClientConnection,
        head: Head,
        body: bytes,
        protocol: str,
        began_s: float,
        *,
        free: bool,
    ) -> None:
        """`ended(exchange)` is called once, when the request is over."""
        super().__init__(parts.shared, conn, head, body, protocol, began_s, free=free)
        self.shared = parts.shared
        self.parts = parts
        self._on_ended = ended
        self.replay: Replay | None = None  # None: no idempotency key, and no wish about the cache
        self.attempt: Attempt | None = None  # the latest, unless it gave nothing

    # The key and the body.

    def identified(self, user: KeyEntry | None) -> None:
        """The key was looked up. `user` None: the database can't be reached."""
        if self.conn is None:
            return
        refusal = opening.refusal_of_key(self.shared, user)
        if user is not None and refusal is None:
            self.set_user(user)
            refusal = opening.read_body(self, self.body)
        if refusal is not None:
            self.refuse(refusal)
        elif self.parsed.stores or (self.protocol == "responses" and needs_preparing(self)):
            prepare(self.shared, self, self._go_on, self._check)
        else:
            self._check()

    def _check(self) -> None:
        parsed = self.parsed
        if parsed.choices > 1 or parsed.dropped or parsed.hosted:
            refusal = opening.refusal_of_tools(self.shared, self.user, parsed)
            if refusal is not None:
                self.refuse(refusal)
                return
        if self.head.may_replay or self.user.caches or self.stored is not None:
            found = begin_replays(
                self.parts, self, self._reserve, self._write_record, self._finish, self.refuse
            )
            if isinstance(found, Refusal):
                self.refuse(found)
                return
            self.replay = found
        if parsed.links:
            self.shared.links.check(parsed.links, self._links_checked)
        else:
            self._find_model()

    def _links_checked(self, reason: str | None) -> None:
        """The links in the request were checked. `reason`: why an upstream may not fetch one of them; None if it may."""
        self._go_on(opening.refusal_of_links(reason), self._find_model)

    def _find_model(self) -> None:
        refusal = self.parts.models.find(self)
        if refusal is None and self.parsed.objects:
            opening.ObjectLookups(self.shared, self, self._model_found).run()
        else:
            self._model_found(refusal)

    def _model_found(self, refusal: Refusal | None) -> None:
        self._go_on(refusal, self._begin_hold)

    def _go_on(self, refusal: Refusal | None, step: Callable[[], None]) -> None:
        """Do the next step, unless the request is refused or its client has gone."""
        if self.conn is None:
            self._finish()
        elif refusal is not None:
            self._refuse_or_repeat(refusal)
        else:
            step()

    def _refuse_or_repeat(self, refusal: Refusal) -> None:
        # Nothing serves the request now. It may repeat one that was answered before.
        if self.replay is None or not self.replay.ask_only(refusal):
            self.refuse(refusal)

    # The hold.

    def _begin_hold(self) -> None:
        """Reserve what the request can cost, under the limits of its key."""
        holds, limits = self.parts.holds, self.user.limits
        if self.route.translates and not (self.native or self.free or self.translated):
            # The translated body is what the deployment reads, so the hold covers it.
            refusal = self.parts.translations.prepare_any(self)
            if refusal is not None:
                self._no_deployment(refusal)
                return
        holds.size(self)
        if limits and self.admission is None:
            self.shared.client.admissions.request(limits, holds.estimate_tokens(self), self._limits_answered)
        else:
            self._reserve()

    def _limits_answered(self, admission: Admission | None, wait_ms: int, limit: Limit, what: int) -> None:
        self.admission, user = admission, self.user
        if self.conn is None:
            self.parts.holds.end(self)
        elif admission is None:
            scope = user.limit_scopes[user.limits.index(limit)] if limit in user.limits else "key"
            lines = refused_lines(limit, what, wait_ms, self.protocol, self.shared.clock.civil_ms())
            self.refuse(over_limit(scope, limit, what, wait_ms)._replace(lines=lines))
        else:
            self._reserve()

    def _reserve(self) -> None:
        if self.replay is not None and self.replay.ask():
            return
        holds = self.parts.holds
        if holds.take(self):
            self._try_deployment()
        else:
            holds.request_hold(self, self._hold_answered)

    def _hold_answered(self, hold: Hold | None, verdict: Verdict, back_s: int) -> None:
        self.pending_hold = None
        holds = self.parts.holds
        if self.conn is None:
            if hold is not None:
                holds.give(hold)
        elif hold is not None or (self.free and verdict == Verdict.PAYS_AS_IT_GOES):
            self.hold = hold
            self._try_deployment()
        elif verdict == Verdict.NOTHING_LEFT and holds.may_hold_less(self):
            # The bound of the input is more than what is left: count the input or, if the loss budget allows it, hold an estimate.
            self.estimated = True
            self.parts.records.count(self, None, self._input_counted)
        else:
            self._hold_refused(verdict, back_s)

    def _input_counted(self, counts: TokenizerCounts | None) -> None:
        """The tokenizer counted the input; None if there is no tokenizer, or it did not answer in time."""
        if self.conn is None:
            self._finish()
        elif self.shared.cutting:
            self.refuse(CUT)
        elif self.parts.holds.hold_less(self, counts):
            self._reserve()
        else:
            self._hold_refused(Verdict.NOTHING_LEFT)

    def _hold_refused(self, verdict: Verdict, back_s: int = 0) -> None:
        """The account does not cover the request as it is."""
        models, holds = self.parts.models, self.parts.holds
        if verdict == Verdict.NOTHING_LEFT:
            if holds.hold_rest(self):
                self._try_deployment()
                return
            # The plan does not pay for this model. It may pay for the intent's next choice or for the plan's cheaper model.
            if models.next_choice(self, NOTHING_LEFT) or models.restrict(self):
                self._begin_hold()
                return
        self.refuse(holds.refusal(self, verdict, back_s))

    # The deployment.

    def _try_deployment(self) -> None:
        """Send the request to a deployment that was not tried yet."""
        if self.free and self._count_tokens():
            return
        if self.free and not self.native:
            self._answer_free(count_tokens.estimate(self))
            return
        placement = self.parts.placements.choose(self)
        if isinstance(placement, Candidate):
            self._begin_at(placement, None)
        elif placement is not None:
            self.parts.placements.request_capacity(self, placement, self._capacity_answered)
        elif not self.deferred:
            self._no_deployment(self.parts.placements.refusal(self))

    def again(self) -> None:
        """The request was deferred: look for a deployment again."""
        self.deferred = False
        if self.conn is not None and not self.ended:
            self._try_deployment()

    def _no_deployment(self, refusal: Refusal, cause: str = "") -> None:
        """The model can't have the request: go on with the next one, or refuse. `cause`: if it is another than the refusal's."""
        self.parts.holds.release(self)
        if self.parts.models.next_choice(self, cause or refusal.code):
            self._begin_hold()
        else:
            self._refuse_or_repeat(refusal)

    def _capacity_answered(self, admission: Admission | None, wait_ms: int, limit: Limit, what: int) -> None:
        """A deployment has capacity, or none had it in time."""
        placements, capacity_request = self.parts.placements, self.capacity_request
        self.queue_number = 0
        if self.conn is None or self.ended:
            if admission is not None:
                placements.give_back(admission)
            return
        placements.capacity_answered(self)
        if admission is not None:
            chosen = placements.admitted(self, admission)
            if chosen is None:
                self._try_deployment()
            else:
                self._begin_at(chosen, admission)
        elif capacity_request.otherwise is not None:
            self._begin_at(capacity_request.otherwise, None)
        elif capacity_request.service == FLEX:
            self._try_deployment()
        else:
            self._no_deployment(placements.no_capacity(self, limit, what, wait_ms))

    def _begin_at(self, chosen: Candidate, admission: Admission | None) -> None:
        translated = None
        if self.route.translates and not speaks(self, chosen.view):
            translated = self._translated_for(chosen, admission)
            if translated is None:
                return
        self.tried.append(chosen.view.name)
        self.attempt_no += 1
        self.attempt = attempt = Attempt(self.parts, self, self, chosen, admission, translated)
        attempt.begin(chosen)

    def _translated_for(self, chosen: Candidate, admission: Admission | None) -> TranslatedRequest | None:
        """The request for a deployment that does not speak the client's protocol. None if it can't have the request as it is held: then
        the request goes on without it, or with a larger hold.
        """
        parts = self.parts
        refusal = parts.translations.prepare(self, chosen.view)
        translated = self.translated
        if translated is not None and not outgrows(self, translated):
            return translated
        if admission is not None:
            parts.placements.give_back(admission)
        if translated is not None:
            parts.holds.release(self)
            self._begin_hold()
            return None
        pass_over(self, parts.translations.alike(self, chosen.view))
        self.last_refusal = self.last_refusal or refusal
        self._try_deployment()
        return None

    def _count_tokens(self) -> bool:
        """Have the model's own tokenizer count. False if there is none, or it was asked before."""
        tokenizer = count_tokens.tokenizer_of(self)
        if tokenizer is None:
            return False
        self.counted_here, self.counting = False, True
        self.shared.counter.count(TokenizerJob(tokenizer, self.protocol, self.body), self._tokens_counted)
        return True

    def _tokens_counted(self, counts: TokenizerCounts | None) -> None:
        self.counting = False
        if self.shared.cutting:
            self.refuse(CUT)
        elif counts is None and self.conn is not None:
            self._try_deployment()
        else:
            self._answer_free(b"" if counts is None else count_tokens.answer(self, counts))

    # The outcome of an attempt.

    def attempt_counted(self, attempt: Attempt) -> None:
        self._answer_free(attempt.chunks[0])

    def _answer_free(self, body: bytes) -> None:
        """Answer `count_tokens`, which costs nothing."""
        self.answered = "free"
        self.parts.placements.end(self.attempt)
        self.parts.holds.release(self)
        if self.conn is not None:
            write_whole(self, self.conn, body)
        self._finish()

    def attempt_completed(
        self, attempt: Attempt, usage: Usage | None, upstream_id: str | None, progress: Counts
    ) -> None:
        self.parts.records.complete(attempt, usage, upstream_id, progress, self._charge_covered)

    def attempt_interrupted(self, attempt: Attempt, reason: str, charge: str | None) -> None:
        self.parts.records.interrupted(attempt, reason, charge, self._charge_covered)

    def _charge_covered(self, charge: AttemptCharge) -> None:
        self.spent_tokens = sum(charge.counts)
        self.parts.placements.end(charge.attempt)
        if self.replay is None or not self.replay.keep(charge):
            self._write_record(charge)

    def _write_record(self, charge: AttemptCharge) -> None:
        self.parts.records.write(charge, self._record_on_disk)

    def attempt_empty(self, attempt: Attempt) -> None:
        """The stream ended properly without content: the request costs nothing."""
        self.answered = "empty_stream"
        self.give_up()
        self._record_on_disk("")

    def attempt_not_begun(self, attempt: Attempt, refusal: Refusal) -> None:
        self.parts.placements.end(self.attempt)
        self.parts.holds.release(self)
        self.refuse(refusal)

    def attempt_faulted(self, attempt: Attempt, fault: Fault) -> None:
        """The upstream answered with an error: pass it on if it is the client's own, else try another deployment."""
        self.parts.records.write_failed(attempt)
        fault = vendor_fault(fault, attempt.view)
        refusal = client_refusal(fault, attempt.view, self.shown_model)
        if refusal is not None:
            self.parts.placements.succeeded(attempt)
            cause = cause_of_fault(self, fault)
            if cause and self.conn is not None:
                self._leave_attempt(attempt, cause)
                self._no_deployment(refusal, cause)
                return
            self.give_up()
            self._refuse_or_say(refusal)
            return
        wait_s, count = credentials.after_fault(self.shared, attempt, fault)
        self.last_refusal = refusal_for(fault._replace(retry_after_s=wait_s), self.model)
        self.attempt_failed(attempt, "", count=count, cause=f"{fault.kind} {fault.status}")

    def attempt_failed(self, attempt: Attempt, reason: str, *, count: bool, cause: str) -> None:
        """The attempt gave nothing that reached the client: it costs nothing, and another deployment is tried."""
        parts = self.parts
        parts.records.write_failed(attempt)
        cause = cause or ("no_connection" if reason.startswith("can't connect") else reason)
        self.shared.stats.c["attempts_failed"] += 1
        if count:
            parts.placements.failed(self, attempt)
        self._leave_attempt(attempt, cause)
        if reason and (self.last_refusal is None or self.last_refusal.status != 504):
            self.last_refusal = Refusal(502, "upstream_error", f"the deployment of {self.model} failed", 1)
        if self.conn is not None:
            self._try_deployment()
        else:
            parts.holds.release(self)
            self._finish()

    def _leave_attempt(self, attempt: Attempt, cause: str) -> None:
        """Another attempt may follow this one, which gave nothing."""
        self.failures = [*(self.failures or ()), (attempt.view.name, cause)]
        self.parts.placements.end(self.attempt)
        self.parts.records.drop(self)
        self.attempt, self.response_head, self.first_byte_ms = None, b"", None  # they were this attempt's
        self.parts.answers.give_memory(self)

    def give_up(self) -> None:
        """End the attempt in flight without a charge or a record, and release the hold."""
        self.parts.placements.end(self.attempt)
        self.parts.records.drop(self)
        self.parts.holds.release(self)

    # The end of the request.

    def _record_on_disk(self, interrupted: str) -> None:
        """The record is on disk, or there is none: send the end of the response. `interrupted`: why it is not complete, or ""."""
        if self.ended:
            return
        attempt, conn = self.attempt, self.conn
        assert attempt is not None
        if conn is not None:
            if interrupted and (attempt.meter is None or not self.sent):
                self._refuse_or_say(self.last_refusal or broke_off(interrupted))
                return
            write_end(conn, attempt, self.parts.answers, interrupted)
        self._finish()

    def _finish(self) -> None:
        """End the request; its response is already written."""
        if self.ended:
            return
        conn = self._end()
        if conn is not None:
            conn.done()

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request, unless it has ended. Nothing is charged."""
        if not self.ended:
            self._refuse_or_say(refusal)

    def _refuse_or_say(self, refusal: Refusal) -> None:
        """Send the refusal as a status if the head has not left, else as an event of the stream, which has begun with pings."""
        conn = self.conn
        self.refusal = refusal
        if conn is not None and self.headed:
            self.shared.count_refusal(refusal)
            end_stream(self, conn, error_event(refusal, self.protocol, self.request_id))
            self._finish()
            return
        self._end()
        if conn is not None:
            conn.exchange = None
            conn.refuse(refusal, self.protocol, self.request_id)

    def _end(self) -> ClientConnection | None:
        """Mark the request as ended and return the client's connection, on which the caller may still write."""
        self.ended = True
        self.parts.answers.give_all_memory(self)
        if self.translated is not None:
            self.parts.translations.forget(self)
        self._on_ended(self)
        # The attempt refers to this request. A cycle would stay in memory until the next garbage collection.
        self.attempt = None
        if self.replay is not None:
            self.replay.ended()
            self.replay = None
        conn, self.conn = self.conn, None
        return conn

    # The client.

    def pause(self) -> None:
        """The client can't take more: pause the upstream."""
        if self.attempt is None:
            self.paused |= FOR_CLIENT
        else:
            self.attempt.pause(FOR_CLIENT)

    def resume(self) -> None:
        if self.attempt is not None:
            self.attempt.resume(FOR_CLIENT)
        else:
            self.paused &= ~FOR_CLIENT

    def client_gone(self) -> None:
        """The client has gone: read a response that ends soon to its end, cut any other, and charge what was produced."""
        self.conn = None
        if self.ended or self.counting:
            return
        attempt = self.attempt
        at_upstream = attempt is not None and attempt.upstream is not None
        self.cancel_pending(hold=not at_upstream)
        if self.free or self.hold is None:
            # Nothing is held yet, or the acknowledgement of the record will end this exchange.
            if self.free and attempt is not None:
                attempt.abort()
                self.parts.placements.end(attempt)
            if not self.usage_id or self.free:
                self.parts.holds.release(self)
                self._finish()
        elif attempt is None or not at_upstream:
            # The request is held and not sent: it waits for a deployment or a connection.
            self.give_up()
            self._finish()
        else:
            self.resume()  # the client's pace does not matter any more
            leave(self.shared, attempt)

    def cancel_pending(self, *, hold: bool = True) -> None:
        """Cancel the pending requests for a hold (`hold`) and for capacity."""
        if hold and self.pending_hold is not None:
            self.shared.client.cancel(self.pending_hold)
        if self.queue_number:
            self.shared.client.admissions.cancel(self.queue_number)
