"""The end of a response: of a whole answer, of a stream, and of a stream that was cut. A translated one ends in the client's protocol."""

from tokenworks.charging import Verdict
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal, cut_events, error_event
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter
from tokenworks.gateway.request.answer import Answers
from tokenworks.gateway.request.refusals import no_hold
from tokenworks.gateway.request.reply import broke_off, end_stream, write_whole
from tokenworks.gateway.request.state import AnsweredAttempt
from tokenworks.gateway.request.translating import failure_noted
from tokenworks.gateway.translate.translation import TranslationFailed


def write_end(conn: ClientConnection, attempt: AnsweredAttempt, answers: Answers, interrupted: str) -> None:
    """Write the end of a response whose record is on disk. `interrupted`: why a stream is not complete, or ""."""
    request, meter = attempt.request, attempt.meter
    if meter is not None:
        last = interrupted_end(attempt, meter, interrupted) if interrupted else complete_end(attempt, meter)
        end_stream(request, conn, last)
    elif attempt.whole is not None:
        write_whole(request, conn, answers.translated_body(attempt, attempt.whole))
    else:
        write_whole(request, conn, attempt.chunks[0] if attempt.chunks else b"")


def complete_end(attempt: AnsweredAttempt, meter: StreamMeter) -> bytes:
    """The last events of a stream that is complete. The client of a translated one gets what the record counts, if its upstream reported
    no usage.
    """
    translator, record = attempt.translator, attempt.request.record
    if translator is None:
        return meter.withheld
    try:
        return translator.finish(meter.withheld, None if record is None else record.c)
    except (EventTooLarge, TranslationFailed) as error:
        return _untranslated_end(attempt, error)


def _untranslated_end(attempt: AnsweredAttempt, error: Exception) -> bytes:
    """The end of a stream whose own end can't be translated."""
    request = attempt.request
    if isinstance(error, TranslationFailed):
        failure_noted(error, attempt.protocol)
    return error_event(broke_off("upstream_error"), request.protocol, request.request_id)


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
            return _untranslated_end(attempt, error)
    return cut_events(
        refusal,
        request.protocol,
        request.request_id,
        request.parsed.model,
        meter.upstream_id,
        meter.progress,
    )
