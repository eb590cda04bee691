"""A response that is kept for its member, under its id: it is stored before its record is written, and is read only beside that record."""

from typing import Final

from tokenworks.charging import REPLAY_KEEP, STORED_CUT, STORED_RESPONSE, ReplayToKeep
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.layout import RawObject
from tokenworks.gateway.protocol.stored import (
    cut_response,
    encode_stored,
    ended_response,
    lacks_output,
    response_id,
    whole_response,
    with_shown_output,
)
from tokenworks.gateway.protocol.stored_completions import (
    completion_id,
    encode_completion,
    streamed_completion,
)
from tokenworks.gateway.request.answer_copy import AnswerCopy
from tokenworks.gateway.request.compacted import compacted_response
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
        metadata = stored.metadata
        response = self._response(charge) if metadata is None else self._completion(charge)
        name, text = None, b""
        if response is not None and metadata is None:
            name, text = response_id(response), encode_stored(response, stored.items, stored.previous_id)
        elif response is not None and metadata is not None:
            name, text = completion_id(response), encode_completion(response, stored.items, metadata)
        if name is None or len(text) > shared.settings.replay_answer_bytes_max:
            # It is not stored. A large one does not go to the recorder, which would read it for nothing while the whole host waits.
            self._say(is_kept=False)
            return self._keep_repeat(charge)
        self._charge, self._size = charge, len(text)
        request.counting = True
        media_type = _MEDIA_TYPE if charge.state == "complete" else STORED_CUT
        kept = ReplayToKeep(
            stored_name(
                request.user.account_id, request.user.member_id, name, request.request_id, of_chat=metadata is not None
            ), b"",
            request.user.member_id, shared.client.worker_id, request.usage_id, media_type, text, self._age_max_s,
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
            if self._request.conn is None and charge.losses:
                # The client has left, and the plan waives what it got: what came after that, it would read without a charge.
                return None
            return cut_response(copy.content(), at_maximum=charge.reason in _LIMITED)
        if meter is not None:
            if translator is None:
                ended = ended_response(meter.withheld)
                if ended is None or copy is None or copy.lost or not lacks_output(ended):
                    return ended
                return with_shown_output(ended, copy.content())
            last = answers.translated_end(attempt, translator, meter, charge.counts)
            return None if attempt.end_failed else ended_response(last)
        return compacted_response(self._request, answers.whole_body(attempt, charge.counts))

    def _completion(self, charge: AttemptCharge) -> RawObject | None:
        """The chat completion as its client gets it; None if it is not whole."""
        attempt, answers, copy = charge.attempt, self._parts.answers, self._request.copy
        meter, translator = attempt.meter, attempt.translator
        if charge.state != "complete":
            return None
        if meter is None:
            return whole_response(answers.whole_body(attempt, charge.counts))
        last = meter.withheld
        if translator is not None:
            last = answers.translated_end(attempt, translator, meter, charge.counts)
        if copy is None or copy.lost or attempt.end_failed:
            return None
        return streamed_completion(copy.content() + last)

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
        self._say(is_kept=is_kept is True)
        if not request.ended and not self._keep_repeat(charge):
            self._kept(charge)

    def _say(self, *, is_kept: bool) -> None:
        """Add to a head that has not left whether the response is stored."""
        request = self._request
        if not request.headed and request.response_head:
            request.response_head += b"x-tokenworks-stored: %b\r\n" % (b"true" if is_kept else b"false")

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
