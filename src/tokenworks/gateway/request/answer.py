"""The answer of an attempt: the response's head, the meter of a stream, the memory that it takes, its progress."""

from typing import Final, Literal

from tokenworks.catalog import Counts
from tokenworks.gateway.counting import TokenizerCounts, TokenizerJob
from tokenworks.gateway.http.headers import response_lines
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.protocol.errors import error_event
from tokenworks.gateway.protocol.fields import dropped_header
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter, UsageOptions
from tokenworks.gateway.protocol.stream import make_meter
from tokenworks.gateway.protocol.usage import BOM
from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request.answer_copy import AnswerCopy
from tokenworks.gateway.request.hold import INPUT_BYTES_PER_TOKEN_MAX
from tokenworks.gateway.request.place import Placements
from tokenworks.gateway.request.rate_headers import admitted_lines
from tokenworks.gateway.request.reply import broke_off
from tokenworks.gateway.request.state import AnsweredAttempt, ArrivedRequest, TranslatedRequest
from tokenworks.gateway.request.translating import Translations, failure_noted
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.translate.form import Answer
from tokenworks.gateway.translate.translation import StreamTranslator, TranslationFailed

# The most that is read of an error's body: the error is at its beginning.
REFUSAL_BYTES_MAX: Final = 65_536
JSON: Final = b"application/json"
# What a stream keeps back is counted in the memory budget from this size on.
UNCOUNTED_STREAM_BYTES: Final = 65_536
# An answer with this in its first bytes is not counted as a success before it is complete.
ERROR_SIGN: Final = b'"error"'
ERROR_SIGN_WITHIN: Final = 512
# The most of a stream's text that is kept for a tokenizer.
KEPT_TEXT_BYTES_MAX: Final = 4 * 1024 * 1024

KeepResult = Literal["kept", "no_memory", "too_large"]


class NoRoom(Exception):
    """The worker's memory budget has no room for what a stream keeps."""


class Answers:
    __slots__ = ("_placements", "_shared", "_translations")

    def __init__(self, shared: Shared, placements: Placements, translations: Translations) -> None:
        self._shared = shared
        self._placements = placements
        self._translations = translations

    def head(self, attempt: AnsweredAttempt, connection: UpstreamConnection) -> None:
        """The upstream answered with success: prepare the response's head and, for a stream, the meter."""
        request = attempt.request
        kind = connection.content_type if attempt.translated is None else JSON
        streams = request.parsed.stream and not request.free
        events = streams and connection.content_type == b"text/event-stream"
        attempt.undecided = streams and not events  # the first bytes show whether it is a stream
        ids = request.request_id.encode()
        lines = [
            b"HTTP/1.1 200 OK\r\ncontent-type: ",
            b"text/event-stream" if streams else kind or JSON,
            b"\r\n",
            *response_lines(connection.headers, attempt.view.profile, connection.names),
            b"x-request-id: ", ids, b"\r\nrequest-id: ", ids, b"\r\n", request.head.lines,
        ]  # fmt: skip
        if request.intent is not None or request.falls_back:
            lines += (b"x-tokenworks-model: ", request.model.encode(), b"\r\n")
            if request.choice is not None:
                lines += (b"x-tokenworks-choice: ", request.choice.encode(), b"\r\n")
        if request.queued_ms:
            lines.append(b"x-tokenworks-queued-ms: %d\r\n" % request.queued_ms)
        if request.admission is not None:
            lines.append(admitted_lines(request.admission, request.protocol, self._shared.clock.civil_ms()))
        if request.restricted:
            lines += (b"x-tokenworks-restricted-to: ", request.model.encode(), b"\r\n")
        if attempt.translated is not None:
            lines += (b"x-tokenworks-translated: ", attempt.protocol.encode(), b"\r\n")
        if attempt.dropped:
            lines += (b"x-tokenworks-dropped: ", dropped_header(attempt.dropped), b"\r\n")
        if request.copy is not None:
            lines.append(request.copy.line)
        request.response_head = b"".join(lines)
        if events:
            self.begin_stream(attempt)

    def begin_stream(self, attempt: AnsweredAttempt) -> None:
        """The answer is a stream of events: make its meter."""
        request = attempt.request
        parsed, maximum = request.parsed, request.maximum
        attempt.undecided = False
        if request.logs_content and request.copy is None and self._shared.settings.content_log_days:
            bytes_max = self._shared.settings.content_log_entry_bytes_max
            request.copy = AnswerCopy(self._shared.memory, request.address, bytes_max, cut=True)
        options = UsageOptions(
            parsed.client_usage or request.wants_cost, parsed.client_usage_each, request.wants_cost
        )
        translated = attempt.translated
        if translated is not None:
            # The client's protocol tells it how to report usage, so the translator gets all of it.
            options = UsageOptions(final=True, cost=request.wants_cost)
            attempt.translator = translated.translation.translator(
                self._translations.naming(attempt, translated)
            )
        attempt.meter = make_meter(
            attempt.protocol,
            requested_model=request.shown_model,
            usage_options=options,
            event_bytes_max=self._shared.settings.event_bytes_max,
            text_max=None if maximum is None else maximum * parsed.choices,
            keep_bytes_max=0 if attempt.view.deployment.tokenizer is None else KEPT_TEXT_BYTES_MAX,
            choices=parsed.choices,
        )

    def keep(self, attempt: AnsweredAttempt, data: bytes) -> KeepResult:
        """Keep a piece of an answer that is not streamed, or of an error's body, if there is memory for it."""
        bytes_max = REFUSAL_BYTES_MAX if attempt.refused_status else self._shared.settings.response_bytes_max
        attempt.size += len(data)
        if attempt.size > bytes_max:
            return "too_large"
        # Small answers are not counted: the number of requests bounds them.
        more = len(data)
        if attempt.size <= UNCOUNTED_BYTES:
            more = 0
        elif attempt.size - more <= UNCOUNTED_BYTES:
            more = attempt.size
        if more and not self._take(attempt.request, more):
            return "no_memory"
        begins = not attempt.chunks and not attempt.refused_status
        if begins and not attempt.over and ERROR_SIGN not in data[:ERROR_SIGN_WITHIN]:
            self._placements.succeeded(attempt)  # its first good bytes
        attempt.chunks.append(data)
        return "kept"

    def count_buffered(self, attempt: AnsweredAttempt, meter: StreamMeter) -> bool:
        """Count what a stream keeps back. False if the worker's memory budget has no room for it."""
        more = meter.buffered_bytes - attempt.request.kept_bytes
        if attempt.translator is not None:
            more += attempt.translator.fed_bytes + attempt.translator.begun_bytes
        return more <= UNCOUNTED_STREAM_BYTES or self._take(attempt.request, more)

    def translate(
        self, attempt: AnsweredAttempt, translator: StreamTranslator, meter: StreamMeter, out: bytes
    ) -> bytes:
        """What the client gets for events that the meter lets pass. Raises `TranslationFailed`, `EventTooLarge`, `NoRoom`."""
        if translator.fed_bytes > self._shared.settings.response_bytes_max:
            raise EventTooLarge
        try:
            out = translator.feed(out)
        except TranslationFailed as error:
            failure_noted(error, attempt.protocol)
            raise
        if not self.count_buffered(attempt, meter):
            raise NoRoom
        return out

    def translate_whole(self, attempt: AnsweredAttempt, translated: TranslatedRequest) -> Fault | None:
        """Translate an answer that is not streamed. Returns the fault of one that can't be translated, before it is charged: another
        deployment may do better.
        """
        translation = translated.translation
        try:
            attempt.whole = translation.read_answer(attempt.chunks[0].removeprefix(BOM))
            translation.write_answer(attempt.whole, self._translations.naming(attempt, translated))
        except TranslationFailed as error:
            failure_noted(error, attempt.protocol)
            return Fault("server", 502, "", "", None)
        return None

    def whole_body(self, attempt: AnsweredAttempt, counted: Counts | None) -> bytes:
        """The body of an answer that is not streamed, as its client gets it. `counted`: the tokens of the record, which the client of a
        translated answer gets if the upstream reported no usage.
        """
        if attempt.whole is not None:
            return self._translated_body(attempt, attempt.whole, counted)
        return attempt.chunks[0] if attempt.chunks else b""

    def _translated_body(self, attempt: AnsweredAttempt, answer: Answer, counted: Counts | None) -> bytes:
        translated = attempt.translated
        assert translated is not None
        naming = self._translations.naming(attempt, translated)
        return translated.translation.write_answer(answer, naming, counted)

    def translated_end(
        self,
        attempt: AnsweredAttempt,
        translator: StreamTranslator,
        meter: StreamMeter,
        counted: Counts | None,
    ) -> bytes:
        """The last events of a translated stream that is complete, made once. `counted`: as in `whole_body`. An end that can't be
        translated is the event of an error, and sets `end_failed`.
        """
        if attempt.end is None:
            try:
                attempt.end = translator.finish(meter.withheld, counted)
            except (EventTooLarge, TranslationFailed) as error:
                attempt.end_failed = True
                attempt.end = untranslated_end(attempt, error)
        return attempt.end

    def _take(self, request: ArrivedRequest, count: int) -> bool:
        if not self._shared.memory.take(request.address, count):
            return False
        request.kept_bytes += count
        return True

    def give_memory(self, request: ArrivedRequest) -> None:
        if request.kept_bytes:
            self._shared.memory.give(request.address, request.kept_bytes)
            request.kept_bytes = 0

    def give_all_memory(self, request: ArrivedRequest) -> None:
        """The request is over: give back also what the response that it continues takes."""
        self.give_memory(request)
        if request.stored_bytes:
            self._shared.memory.give(request.address, request.stored_bytes)
            request.stored_bytes = 0

    def report_progress(self, attempt: AnsweredAttempt, meter: StreamMeter) -> None:
        """Report to the journal what is charged for this stream if this worker dies."""
        request, shared = attempt.request, self._shared
        if request.hold is None:
            return
        attempt.progress_at = meter.progress + shared.settings.progress_tokens
        attempt.reported = True
        counts = meter.counts()
        if not counts.input_tokens:
            counts = counts._replace(fresh_input=request.parsed.text_bytes // INPUT_BYTES_PER_TOKEN_MAX)
        now_ms = shared.clock.civil_ms()
        shared.client.progress(request.usage_id, counts, request.first_byte_ms, now_ms, request.hold)

    def is_below_maximum(self, attempt: AnsweredAttempt, meter: StreamMeter) -> bool:
        """True while the model's tokenizer has not confirmed that a text is over its maximum, which its bytes suggest. Asks the
        tokenizer if no answer is pending.
        """
        tokenizer = attempt.view.deployment.tokenizer
        if tokenizer is None or meter.usage_over_maximum or attempt.measuring is None:
            return False
        if not attempt.measuring:
            attempt.measuring = True
            size, texts = meter.shown_bytes, tuple(meter.kept)

            def done(found: TokenizerCounts | None) -> None:
                # Without a count the bytes decide from now on.
                attempt.measuring = None if found is None else False
                if found is not None:
                    meter.measured(size, found.output)

            self._shared.counter.count(TokenizerJob(tokenizer, attempt.protocol, texts=texts), done)
        return True


def untranslated_end(attempt: AnsweredAttempt, error: Exception) -> bytes:
    """The end of a stream whose own end can't be translated."""
    request = attempt.request
    if isinstance(error, TranslationFailed):
        failure_noted(error, attempt.protocol)
    return error_event(broke_off("upstream_error"), request.protocol, request.request_id)
