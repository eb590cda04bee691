"""The end of a response: of a whole answer, of a stream, and of a stream that was cut. A translated one ends in the client's protocol."""

from tokenworks.charging import Verdict
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal, cut_events, error_event
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter
from tokenworks.gateway.request.answer import Answers, untranslated_end
from tokenworks.gateway.request.compacted import compacted_end
from tokenworks.gateway.request.cost import stream_end, whole_answer
from tokenworks.gateway.request.refusals import no_hold
from tokenworks.gateway.request.reply import broke_off, end_stream, write_whole
from tokenworks.gateway.request.state import AnsweredAttempt
from tokenworks.gateway.translate.translation import TranslationFailed


def write_end(conn: ClientConnection, attempt: AnsweredAttempt, answers: Answers, interrupted: str) -> None:
    """Write the end of a response whose record is on disk. `interrupted`: why a stream is not complete, or ""."""
    request, meter, record = attempt.request, attempt.meter, attempt.request.record
    counted = None if record is None else record.c
    if meter is not None:
        if interrupted:
            end_stream(request, conn, interrupted_end(attempt, meter, interrupted))
            return
        translator = attempt.translator
        last = (
            meter.withheld
            if translator is None
            else answers.translated_end(attempt, translator, meter, counted)
        )
        end_stream(
            request, conn, stream_end(request, meter.upstream_id, last) if request.wants_cost else last
        )
        return
    body = answers.whole_body(attempt, counted)
    if request.wants_cost:
        body = whole_answer(request, body)
    write_whole(request, conn, body if request.compaction is None else compacted_end(request, body))


def interrupted_end(attempt: AnsweredAttempt, meter: StreamMeter, reason: str) -> bytes:
    """The last events of a stream that was cut. A client does not take them for the end of a whole answer, except those of a stream that
    reached its maximum.

    If nothing is left they are the final unit action in the client's protocol: a chunk with a finish reason, then the cause and what
    to do.
    """
    request, translator = attempt.request, attempt.translator
    refusal: Refusal | None = None
    if reason in {"nothing_left", "hold_unavailable"}:
        verdict = Verdict.NOTHING_LEFT if reason == "nothing_left" else Verdict.AWAY
        refusal = no_hold(verdict, request.user)
    elif reason != "beyond_maximum":
        return error_event(broke_off(reason), request.protocol, request.request_id)
    if translator is not None:
        event = b"" if refusal is None else error_event(refusal, request.protocol, request.request_id)
        try:
            return translator.cut(event, meter.counts() if request.record is None else request.record.c)
        except (EventTooLarge, TranslationFailed) as error:
            return untranslated_end(attempt, error)
    return cut_events(
        refusal,
        request.protocol,
        request.request_id,
        request.shown_model,
        meter.upstream_id,
        meter.progress,
    )
