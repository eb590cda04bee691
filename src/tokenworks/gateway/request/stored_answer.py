"""A response that is kept for its member, under its id: it is stored before its record is written, and is read only beside that record."""

from typing import Final

from tokenworks.charging import REPLAY_KEEP, STORED_RESPONSE, ReplayToKeep
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.layout import RawObject
from tokenworks.gateway.protocol.stored import (
    cut_response,
    encode_stored,
    ended_response,
    response_id,
    whole_response,
)
from tokenworks.gateway.request.answer_copy import AnswerCopy
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.record import AttemptCharge, ChargeCallback
from tokenworks.gateway.request.replay import (
    Continue,
    RefusalCallback,
    Replay,
    begin_replay,
    stored_name,
)
from tokenworks.gateway.request.state import HeldRequest, ResponseToStore

# A stream has several events for each word, so its copy may be this many times as large as a stored response.
COPY_FACTOR: Final = 8
_SECONDS_PER_DAY: Final = 86_400
_MEDIA_TYPE: Final = "application/json"
# How a stream ends whose tokens were limited: by the balance, or by its own maximum.
_LIMITED: Final = frozenset({"beyond_maximum", "hold_unavailable", "nothing_left"})


class StoredAnswer(Replay):
    """`repeat`: of the same request, by its idempotency key; None if it has none. It is looked for first, and stored last."""

    __slots__ = ("_repeat", "_stored")

    def __init__(
        self,
        parts: Parts,
        request: HeldRequest,
        stored: ResponseToStore,
        repeat: Replay | None,
        missed: Continue,
        kept: ChargeCallback,
        given: Continue,
        refuse: RefusalCallback,
    ) -> None:
        settings = parts.shared.settings
        age_s = settings.stored_response_days * _SECONDS_PER_DAY
        super().__init__(parts, request, missed, kept, given, refuse, STORED_RESPONSE, 0, age_s, refresh=True)
        self._stored = stored
        self._repeat = repeat
        if request.parsed.stream:
            bytes_max = COPY_FACTOR * settings.replay_answer_bytes_max
            request.copy = AnswerCopy(parts.shared.memory, request.address, bytes_max)
            request.copy.line = b""

    def ask(self) -> bool:
        return self._repeat is not None and self._repeat.ask()

    def ask_only(self, refusal: Refusal) -> bool:
        return self._repeat is not None and self._repeat.ask_only(refusal)

    def keep(self, charge: AttemptCharge) -> bool:
        """Have the response stored before its record is written; `kept(charge)` follows."""
        request, shared, stored = self._request, self._parts.shared, self._stored
        response = self._response(charge)
        name = None if response is None else response_id(response)
        if response is None or name is None:
            return self._keep_repeat(charge)
        text = encode_stored(response, stored.items, stored.previous_id)
        self._charge, self._size = charge, len(text)
        request.counting = True
        kept = ReplayToKeep(
            stored_name(request.user.account_id, request.user.member_id, name, request.request_id), b"",
            request.user.member_id, shared.client.worker_id, request.usage_id, _MEDIA_TYPE, text, self._age_max_s,
        )  # fmt: skip
        shared.client.request(REPLAY_KEEP, kept, self._answer_kept)
        return True

    def _response(self, charge: AttemptCharge) -> RawObject | None:
        """The response as its client gets it; None if there is none to be stored."""
        attempt, answers, copy = charge.attempt, self._parts.answers, self._request.copy
        meter, translator = attempt.meter, attempt.translator
        if charge.state != "complete":
            if meter is None or copy is None or copy.lost or charge.reason == "shutdown":
                return None
            return cut_response(copy.content(), at_maximum=charge.reason in _LIMITED)
        if meter is not None:
            if translator is None:
                return ended_response(meter.withheld)
            last = answers.translated_end(attempt, translator, meter, charge.counts)
            return None if attempt.end_failed else ended_response(last)
        if attempt.whole is not None:
            return whole_response(answers.translated_body(attempt, attempt.whole, charge.counts))
        return whole_response(attempt.chunks[0] if attempt.chunks else b"")

    def _keep_repeat(self, charge: AttemptCharge) -> bool:
        return self._repeat is not None and self._repeat.keep(charge)

    def _answer_kept(self, is_kept: bool | None) -> None:
        request, charge, counters = self._request, self._charge, self._parts.shared.stats.c
        request.counting = False
        self._charge = None
        assert charge is not None, "one response is stored"
        if is_kept:
            counters["answers_stored"] += 1
            counters["answers_stored_bytes"] += self._size
        if not request.headed and request.response_head:
            request.response_head += b"x-tokenworks-stored: %b\r\n" % (b"true" if is_kept else b"false")
        if not request.ended and not self._keep_repeat(charge):
            self._kept(charge)

    def ended(self) -> None:
        super().ended()
        if self._repeat is not None:
            self._repeat.ended()


def begin_replays(
    parts: Parts,
    request: HeldRequest,
    missed: Continue,
    kept: ChargeCallback,
    given: Continue,
    refuse: RefusalCallback,
) -> Replay | Refusal | None:
    """What is stored of a request's answer, or given in its place. Returns a refusal as `begin_replay` does."""
    repeat: Replay | Refusal | None = None
    if request.head.may_replay or request.user.caches:
        repeat = begin_replay(parts, request, missed, kept, given, refuse)
    if request.stored is None or isinstance(repeat, Refusal):
        return repeat
    return StoredAnswer(parts, request, request.stored, repeat, missed, kept, given, refuse)
