"""A request that may be answered with a stored answer: by its idempotency key, or from the response cache of its account.

The recorder is asked before the hold. If it has an answer, that is charged by its share and given, without a deployment; the end of the
response waits for the record, as always. Otherwise the request goes on, and its complete answer is stored before its record is written,
since a stored answer counts only together with its record. docs/CACHE.md has the conditions.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.charging import (
    IDEMPOTENCY_KEY,
    REPLAY_DROP,
    REPLAY_KEEP,
    REPLAY_LOOKUP,
    RESPONSE_CACHE,
    STORED_RESPONSE,
    Attempt,
    Hold,
    ReplayFound,
    ReplayKind,
    ReplayLookup,
    ReplayName,
    ReplayToKeep,
    Verdict,
    is_nothing,
    need_of,
    share_of,
    usage_record,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.errors import UNREADABLE
from tokenworks.gateway.protocol.fields.scan import any_decoder
from tokenworks.gateway.request.answer_copy import AnswerCopy
from tokenworks.gateway.request.compacted import compacted_body
from tokenworks.gateway.request.fallback import asked_name
from tokenworks.gateway.request.losses import is_filtered
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.record import AttemptCharge, ChargeCallback
from tokenworks.gateway.request.replayed import lookup_refusal, refusal_of_model, write_replayed
from tokenworks.gateway.request.state import HeldRequest

# Requests with a larger body are not answered from the cache, since to compare them would block the loop for too long.
CACHED_BODY_BYTES_MAX: Final = 262_144
# Fields that say who asks, and not what: two requests that differ in them alone are equal. `usage` is the wish for the cost, which
# `_equal_text` has where it counts.
IGNORED_FIELDS: Final = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "usage", "user"}
)
# Headers that change what a deployment answers.
_COMPARED_HEADERS: Final = (b"anthropic-beta", b"anthropic-version")
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
# The SDKs' own keys, one for each call: https://github.com/openai/openai-python, src/openai/_base_client.py, `_idempotency_key`, 2026-11.
SDK_KEYS: Final = b"stainless-"
_WISH: Final = re.compile(
    rb"[ \t]*(on|refresh)[ \t]*(?:[;,][ \t]*ttl[ \t]*=[ \t]*([0-9]{1,9})[ \t]*)?", re.IGNORECASE
)
_STORED_LINE: Final = b"x-tokenworks-cache: stored\r\n"
_DIGEST_BYTES: Final = 32
_NOT_PERMITTED: Final = 403
_SECONDS_PER_HOUR: Final = 3600
_encode: Final = msgspec.json.Encoder(order="sorted").encode

Continue = Callable[[], None]
RefusalCallback = Callable[[Refusal], None]


class Replay:
    """`missed()`: the request goes on to a deployment. `kept(charge)`: its record may be written. `given()`: its response is written.
    `refuse(refusal)`: it is refused. An exchange drops its replay when it ends.
    """

    __slots__ = (
        "_age_max_s",
        "_asked",
        "_charge",
        "_claimed",
        "_found",
        "_given",
        "_kept",
        "_kind",
        "_maximum",
        "_missed",
        "_model",
        "_name",
        "_otherwise",
        "_parts",
        "_percent",
        "_refresh",
        "_refuse",
        "_request",
        "_share",
        "_size",
    )

    def __init__(
        self,
        parts: Parts,
        request: HeldRequest,
        missed: Continue,
        kept: ChargeCallback,
        given: Continue,
        refuse: RefusalCallback,
        kind: ReplayKind,
        percent: int,
        age_max_s: int,
        *,
        refresh: bool,
    ) -> None:
        """`percent`: the share of the charge. `age_max_s`: of an answer of the cache; of an idempotency key. `refresh`: store an answer and
        look for none.
        """
        self._parts = parts
        self._request = request
        self._missed = missed
        self._kept = kept
        self._given = given
        self._refuse = refuse
        self._kind: ReplayKind = kind
        self._percent = percent
        self._age_max_s = age_max_s
        self._refresh = refresh
        self._asked = False
        self._otherwise: Refusal | None = None  # of a request that nothing serves, if it is no repeat
        self._claimed = (
            False  # the idempotency key is this request's, and has to be freed if that comes to nothing
        )
        # Of the request before its hold, which may change both.
        self._model = ""
        self._maximum: int | None = None
        self._name: ReplayName | None = None
        self._found: ReplayFound | None = None
        self._share = Counts()
        self._charge: AttemptCharge | None = None
        self._size = 0  # of the answer that is to be stored

    # The question.

    def ask(self) -> bool:
        """Ask the recorder for a stored answer, once. False if the request goes on at once."""
        if self._asked:
            return False
        self._asked = True
        request, shared = self._request, self._parts.shared
        self._model, self._maximum = request.model, request.maximum
        if self._kind == IDEMPOTENCY_KEY:
            digest = _digest(b"key", request.head.headers[b"idempotency-key"])
        else:
            text = _equal_text(request)
            if text is None:
                return False
            digest = _digest(b"request", text)
            request.copy = AnswerCopy(shared.memory, request.address, shared.settings.replay_answer_bytes_max)
        self._name = ReplayName(request.user.account_id, self._kind, digest, request.request_id)
        if self._refresh:
            return False
        question = ReplayLookup(
            self._name, self._body_digest(), request.user.member_id, shared.client.worker_id, self._age_max_s
        )
        shared.client.request(REPLAY_LOOKUP, question, self._answered)
        return True

    def ask_only(self, refusal: Refusal) -> bool:
        """Ask for the answer of a request that is to be refused otherwise, as its model or its deployment is not there any more: a repeat of
        a request with an idempotency key needs neither. A key that is not permitted to use the model gets no answer of it. False if
        nothing is asked.
        """
        request = self._request
        if self._kind != IDEMPOTENCY_KEY or self._asked or refusal.status == _NOT_PERMITTED:
            return False
        # The name is the record's; that of a model that is not served may be any text. Nothing is held of a repeat.
        request.model = request.rated = asked_name(request.model)
        request.maximum = None
        self._otherwise = refusal
        return self.ask()

    def _body_digest(self) -> bytes:
        request = self._request
        if self._kind != IDEMPOTENCY_KEY:
            return b""
        # Of the client's own body. The body that is sent in its place is another one for a repeat, if the response that it continues was
        # deleted since, or if a deployment compacts now.
        body = request.body if request.own_body is None else request.own_body
        route = request.protocol if request.compaction is None else request.head.path
        return _digest(route.encode(), request.head.query, body)

    def _answered(self, found: ReplayFound | None) -> None:
        request = self._request
        # The answer of a recorder that claimed the key may come too late, so that None may stand for a claim.
        self._claimed = self._kind == IDEMPOTENCY_KEY and (found is None or found.verdict == "none")
        if request.ended:
            self._drop_claim()
        elif found is not None and found.verdict == "found":
            self._take(found)
        elif self._kind == IDEMPOTENCY_KEY:
            refusal = lookup_refusal(found) or self._otherwise
            if refusal is not None:
                self._refuse(refusal)
            else:
                self._missed()
        else:
            if found is None:
                # The database does not answer: the response must not wait for it again.
                self._name, request.copy = None, None
            self._parts.shared.stats.c["cache_misses"] += 1
            self._missed()

    # A stored answer.

    def _take(self, found: ReplayFound) -> None:
        """Hold exactly what the answer is charged."""
        request, shared, holds = self._request, self._parts.shared, self._parts.holds
        refusal = refusal_of_model(request, found, shared.snapshot)
        if refusal is not None:
            self._refuse(refusal)
            return
        if not shared.memory.take(request.address, len(found.answer)):
            self._refuse(shared.memory.refusal(request.address, len(found.answer)))
            return
        request.kept_bytes += len(found.answer)
        self._found = found
        self._share = share_of(found.charged, self._percent)
        need = need_of(self._share, self._percent)
        if is_nothing(need):
            self._write_record(found)
            return
        request.need, request.held_output = need, need.output_tokens
        if holds.take(request):
            self._write_record(found)
        else:
            holds.request_hold(request, self._hold_answered)

    def _hold_answered(self, hold: Hold | None, verdict: Verdict, back_s: int) -> None:
        request, holds, found = self._request, self._parts.holds, self._found
        request.pending_hold = None
        if request.ended or found is None:
            if hold is not None:
                holds.give(hold)
        elif hold is None:
            self._refuse(holds.refusal(request, verdict, back_s))
        else:
            request.hold = hold
            self._write_record(found)

    def _write_record(self, found: ReplayFound) -> None:
        request, shared = self._request, self._parts.shared
        user, hold, share = request.user, request.hold, self._share
        request.hold, request.usage_id, request.attempt_no = None, request.request_id, 1
        parts, unpaid = (
            ([], None) if hold is None else shared.slices.commit(hold, share, shared.clock.boot_ns)
        )
        record = usage_record(
            Attempt(
                usage_id=request.usage_id,
                account_id=user.account_id,
                request_id=request.request_id,
                attempt_no=request.attempt_no,
                key_id=user.key_id,
                member_id=user.member_id,
                protocol=request.protocol,
                model=request.model,
                deployment="",
                started_ms=request.started_ms,
            ),
            state="replayed",
            reason=self._kind,
            counted_by=found.counted_by,
            ended_ms=shared.clock.civil_ms(),
            first_byte_ms=None,
            latency_ms=int((shared.loop.time() - request.began_s) * 1000),
            counts=share,
            provider_total=None,
            parts=parts,
            loss=[],
            flags=[],
            upstream_id=None,
        )
        record.unpaid = unpaid
        record.replay_of, record.replay_percent = found.usage_id, self._percent
        record.prompt = request.rated == request.model
        record.asked, record.choice = request.intent, request.choice
        record.client_request_id, record.tags = request.head.client_request_id, request.tags
        request.record, request.spent_tokens = record, sum(share)
        shared.client.finish(record, self._record_on_disk, "")
        if hold is not None and hold.account.closing:
            shared.client.released(hold.account)

    def _record_on_disk(self, _: str) -> None:
        request, shared, found = self._request, self._parts.shared, self._found
        if request.ended or found is None:
            return
        counters = shared.stats.c
        counters["idempotency_repeats" if self._kind == IDEMPOTENCY_KEY else "cache_hits"] += 1
        counters["answers_replayed_bytes"] += len(found.answer)
        if request.conn is not None:
            write_replayed(request, request.conn, found, self._kind, shared.clock.civil_ms())
        self._given()

    # An answer to be stored.

    def keep(self, charge: AttemptCharge) -> bool:
        """Have the answer stored before its record is written; `kept(charge)` follows. False if it is not to be stored."""
        request, shared, name = self._request, self._parts.shared, self._name
        if name is None or charge.state != "complete":
            return False
        answer = self._answer(charge)
        if answer is None and self._kind == RESPONSE_CACHE:
            return False
        # From here on the request may be charged, so that its idempotency key is not free any more.
        self._claimed = False
        self._charge, self._size = charge, len(answer or b"")
        request.counting = True
        kept = ReplayToKeep(
            name, self._body_digest(), request.user.member_id, shared.client.worker_id, request.usage_id,
            self._media_type(charge), answer, self._age_max_s,
        )  # fmt: skip
        shared.client.request(REPLAY_KEEP, kept, self._answer_kept)
        return True

    def _answer(self, charge: AttemptCharge) -> bytes | None:
        """The bytes of the answer as its client gets them; None if they are not stored."""
        attempt, request, copy = charge.attempt, self._request, self._request.copy
        size_max = self._parts.shared.settings.replay_answer_bytes_max
        if self._kind == RESPONSE_CACHE and (
            charge.reason != "completed"
            or len(charge.losses) > 0
            or is_filtered(attempt)
            # The plan's cheaper model, or a lower maximum, since the balance did not cover all of it.
            or request.model != self._model
            or request.maximum != self._maximum
            or request.parsed.stream != (attempt.meter is not None)
        ):
            return None
        if attempt.meter is None:
            answer = self._parts.answers.whole_body(attempt, charge.counts)
            if request.compaction is not None:
                answer = compacted_body(request, answer) or b""
            return answer if 0 < len(answer) <= size_max else None
        assert copy is not None, "a stream is stored for the cache alone"
        last, translator = attempt.meter.withheld, attempt.translator
        if translator is not None:
            last = self._parts.answers.translated_end(attempt, translator, attempt.meter, charge.counts)
            if attempt.end_failed:
                return None
        copy.add(last)
        return None if copy.lost else copy.content()

    def _media_type(self, charge: AttemptCharge) -> str:
        if charge.attempt.meter is not None:
            return "text/event-stream"
        head = self._request.response_head
        line = head.partition(b"content-type: ")[2].partition(b"\r\n")[0]
        return line.decode("latin-1")

    def _answer_kept(self, is_kept: bool | None) -> None:
        request, charge, counters = self._request, self._charge, self._parts.shared.stats.c
        request.counting = False
        self._charge = None
        assert charge is not None, "one answer is stored"
        if is_kept:
            counters["answers_stored"] += 1
            counters["answers_stored_bytes"] += self._size
            if request.copy is not None and not request.headed:
                request.response_head = request.response_head.replace(request.copy.line, _STORED_LINE, 1)
        if not request.ended:
            self._kept(charge)

    # The end.

    def ended(self) -> None:
        """The request is over: free what it had of memory, and an idempotency key for which nothing was charged."""
        if self._request.copy is not None:
            self._request.copy.forget()
            self._request.copy = None
        self._drop_claim()

    def _drop_claim(self) -> None:
        if self._claimed and self._name is not None:
            self._claimed = False
            self._parts.shared.client.request(REPLAY_DROP, self._name, _dropped)


def begin_replay(
    parts: Parts,
    request: HeldRequest,
    missed: Continue,
    kept: ChargeCallback,
    given: Continue,
    refuse: RefusalCallback,
) -> Replay | Refusal | None:
    """The replay of a request whose head wishes one; None if the wish has no effect, and a refusal for an invalid key.

    An idempotency key has an effect on an answer that is not streamed, unless an SDK made it for its own retries. A wish about the cache has
    an effect if the plan has a cache, the request has no key, and its response is not to be stored.
    """
    settings, headers = parts.shared.settings, request.head.headers
    if request.free:
        return None
    key = headers.get(b"idempotency-key")
    if (
        key is not None
        and settings.idempotency_hours
        and not request.parsed.stream
        and (request.compaction is None or not request.compaction.streams)
        and not key.startswith(SDK_KEYS)
    ):
        if _KEY.fullmatch(key) is None:
            return Refusal(
                400, "invalid_idempotency_key", "an Idempotency-Key is 1 to 255 printable ASCII characters"
            )
        age_s = settings.idempotency_hours * _SECONDS_PER_HOUR
        return Replay(parts, request, missed, kept, given, refuse, IDEMPOTENCY_KEY, 0, age_s, refresh=False)
    percent, age_max_s = request.user.service.cache_percent, settings.cache_age_max_s
    wish = _WISH.fullmatch(headers.get(b"x-tokenworks-cache", b"on" if request.user.caches else b""))
    if percent is None or not age_max_s or wish is None or request.stored or request.compaction:
        return None
    if wish[2] is not None:
        age_max_s = min(age_max_s, int(wish[2]))
        if not age_max_s:
            return None
    refresh = wish[1].lower() == b"refresh"
    return Replay(
        parts, request, missed, kept, given, refuse, RESPONSE_CACHE, percent, age_max_s, refresh=refresh
    )


def stored_name(
    account_id: str, member_id: str, response_id: str, request_id: str, *, of_chat: bool = False
) -> ReplayName:
    """The name of a stored response: an id names it only for the member whose key stored it. `request_id`: the request that asks."""
    digest = _digest(b"completion" if of_chat else b"response", member_id.encode(), response_id.encode())
    return ReplayName(account_id, STORED_RESPONSE, digest, request_id)


def _digest(*parts: bytes) -> bytes:
    """A digest of the parts, each with its length, so that no two lists of parts have the same bytes."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.digest()


def _equal_text(request: HeldRequest) -> bytes | None:
    """The text that two equal requests have in common; None if the request is never answered from the cache.

    Never are requests with several choices, media by URL, objects of an upstream, or tools of a vendor: what an equal one gets
    depends on more than the body.
    """
    parsed = request.parsed
    if (
        len(request.body) > CACHED_BODY_BYTES_MAX
        or parsed.choices > 1
        or parsed.links
        or parsed.objects
        or parsed.hosted
    ):
        return None
    headers = [request.head.headers.get(name, b"").decode("latin-1") for name in _COMPARED_HEADERS]
    head = [
        request.protocol,
        request.model,
        request.shown_model,
        request.head.query.decode("latin-1"),
        *headers,
    ]
    if parsed.stream and request.wants_cost:
        head.append("cost")  # such a stream has usage, also if its body requests none
    try:
        fields = {
            name: any_decoder.decode(value)
            for name, value in parsed.fields.items()
            if name not in IGNORED_FIELDS
        }
        return _encode([head, fields])
    except UNREADABLE:  # of a field that no rule reads, such as 1e999
        return None


def _dropped(_: None) -> None:
    """Nothing waits for the end of a claim."""
