"""One translation: a client's request for a deployment that speaks another protocol, and the deployment's answer for the client.

Everything here is pure. The meter has counted what comes in here before, in the upstream's protocol, so nothing of a translation
changes a usage record. A request that can't be expressed is refused (`Untranslatable`) before it is sent. An answer that can't be
translated raises `TranslationFailed`: that is a defect of a codec or of an upstream, and the attempt fails like one whose upstream
broke off.
"""

from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.meter import EventTooLarge
from tokenworks.gateway.translate.chat import codec as chat
from tokenworks.gateway.translate.codec import Codec, EventReader, EventWriter, Naming, Target
from tokenworks.gateway.translate.events import split_events
from tokenworks.gateway.translate.form import (
    Answer,
    CallBegin,
    Delta,
    End,
    Event,
    Finish,
    PartEnd,
    ReasoningBegin,
    RefusedBegin,
    Stop,
    SummaryDelta,
    TextBegin,
    Untranslatable,
    UsageReport,
)
from tokenworks.gateway.translate.messages import codec as messages
from tokenworks.gateway.translate.responses import codec as responses

CODECS: Final[dict[str, Codec]] = {"chat": chat, "messages": messages, "responses": responses}
# The exceptions of code that meets a value of an unexpected type.
_DEFECTS: Final = (
    msgspec.MsgspecError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
_encode: Final = msgspec.json.encode
_object: Final = msgspec.json.Decoder(dict[str, object])


class TranslationFailed(Exception):
    """An answer that can't be translated. The text has no content: it names the direction and the kind of the error."""


class Translation:
    """A request in the protocol of a deployment, and the way back.

    `body`: the request's body; `dropped`: the names of fields that are not carried; `request`: the client's request.
    """

    __slots__ = ("_client", "_upstream", "body", "client_protocol", "dropped", "request", "upstream_protocol")

    def __init__(self, client_protocol: str, upstream_protocol: str, body: bytes, target: Target) -> None:
        """`body`: the client's, without what its protocol's allow-list removes. Raises `Untranslatable`."""
        self.client_protocol = client_protocol
        self.upstream_protocol = upstream_protocol
        self._client = CODECS[client_protocol]
        self._upstream = CODECS[upstream_protocol]
        try:
            self.request, unread = self._client.read_request(_object.decode(body))
            fields, unwritten = self._upstream.write_request(self.request, target)
            self.body = _encode(fields)
        except _DEFECTS as error:
            # A body that the allow-list passed and a codec can't read: refused, since nothing was sent.
            raise Untranslatable("", _failure(client_protocol, upstream_protocol, error)) from error
        self.dropped = tuple(dict.fromkeys((*unread, *unwritten)))

    def read_answer(self, body: bytes) -> Answer:
        """A whole answer of the upstream. Raises `TranslationFailed`."""
        try:
            return self._upstream.read_answer(_object.decode(body))
        except _DEFECTS as error:
            raise TranslationFailed(_failure(self.upstream_protocol, self.client_protocol, error)) from error

    def write_answer(self, answer: Answer, naming: Naming, counted: Counts | None = None) -> bytes:
        """The body of a whole answer for the client. `counted`: usage that the gateway counted, for an answer without any. Raises
        `TranslationFailed`.
        """
        if answer.usage is None and counted is not None:
            answer = msgspec.structs.replace(answer, usage=counted)
        try:
            return _encode(self._client.write_answer(answer, naming))
        except _DEFECTS as error:
            raise TranslationFailed(_failure(self.upstream_protocol, self.client_protocol, error)) from error

    def translator(self, naming: Naming) -> "StreamTranslator":
        return StreamTranslator(
            self.client_protocol,
            self.upstream_protocol,
            self._upstream.event_reader(),
            self._client.event_writer(naming),
        )

    def naming(self, answer_id: str, model: str, created_s: int) -> Naming:
        return Naming(answer_id, model, created_s, self.request)


class StreamTranslator:
    """A stream in the upstream's protocol on its way to a client: `feed` takes what the meter lets pass, whole events, and returns
    what the client gets now. After `finish` or `cut` nothing may be fed.

    `fed_bytes`: bytes fed so far. A writer keeps at most a constant number of bytes for each: responses repeat the whole answer at
    their end. `begun_bytes`: bytes that it began with, which it keeps as well: responses repeat the request's tools and instructions twice at
    their beginning, and once at their end.
    """

    __slots__ = (
        "_client",
        "_open",
        "_reader",
        "_reported",
        "_upstream",
        "_writer",
        "begun_bytes",
        "fed_bytes",
    )

    def __init__(self, client: str, upstream: str, reader: EventReader, writer: EventWriter) -> None:
        self._client = client
        self._upstream = upstream
        self._reader = reader
        self._writer = writer
        self._open: dict[int, None] = {}  # parts that have begun and not ended, in order
        self._reported = False
        self.fed_bytes = 0
        self.begun_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Raises `TranslationFailed`, and `EventTooLarge` if a writer would have to keep too much back."""
        self.fed_bytes += len(data)
        try:
            out = self._written(self._read(data))
            if not self.begun_bytes:
                self.begun_bytes = len(out)
            return out
        except _DEFECTS as error:
            raise TranslationFailed(_failure(self._upstream, self._client, error)) from error

    def _read(self, data: bytes) -> list[Event]:
        reader = self._reader
        split = split_events(data)
        if len(split) == 1:
            name, payload = split[0]
            return list(reader.read(name, payload))
        events: list[Event] = []
        for name, payload in split:
            events += reader.read(name, payload)
        return events

    def _written(self, events: list[Event]) -> bytes:
        if not events:
            return b""
        for event in events:
            if not isinstance(event, (Delta, SummaryDelta)):
                self._note(event)
        return self._writer.write(events)

    def _note(self, event: Event) -> None:
        if isinstance(event, PartEnd):
            self._open.pop(event.part, None)
        elif isinstance(event, (TextBegin, RefusedBegin, ReasoningBegin, CallBegin)):
            self._open[event.part] = None
        elif isinstance(event, UsageReport):
            self._reported = True

    def finish(self, withheld: bytes, counted: Counts | None = None) -> bytes:
        """The end of the stream, after its record is on disk. `withheld`: the events that the meter withheld until then; `counted`:
        usage that the gateway counted, for a stream that reported none. Raises as `feed`.
        """
        try:
            events = self._read(withheld)
            events += self._reader.finish()
            if counted is not None and not self._reported:
                _add_usage(events, counted)
            return self._written(events)
        except _DEFECTS as error:
            raise TranslationFailed(_failure(self._upstream, self._client, error)) from error

    def cut(self, error: bytes, counts: Counts) -> bytes:
        """The end of a stream that the gateway cuts, as one that reached a length limit: its open parts end, and then the stream.
        `error`: the event with the cause, or empty if the client's own maximum was reached; `counts`: the usage that is charged.
        Raises as `feed`.

        A client of messages takes `message_stop` for the end of a whole answer, so an error stands in its place. Responses end with
        `response.incomplete`, and chat with `[DONE]`, before and after the error, as in a stream that is not translated.
        """
        closing: list[Event] = [PartEnd(part) for part in self._open]
        closing += (Finish(Stop.LENGTH), UsageReport(counts))
        end: list[Event] = [End()]
        self._open = {}
        write = self._writer.write
        try:
            if not error or self._client == "responses":
                return write([*closing, *end]) + error
            if self._client == "messages":
                return write(closing) + error
            return write(closing) + error + write(end)
        except _DEFECTS as defect:
            raise TranslationFailed(_failure(self._upstream, self._client, defect)) from defect


def _add_usage(events: list[Event], counted: Counts) -> None:
    """Add usage to the events of a stream's end, unless they have it: before the last event if that is the end."""
    for event in events:
        if isinstance(event, UsageReport):
            return
    at = len(events)
    if events and isinstance(events[-1], End):
        at -= 1
    events.insert(at, UsageReport(counted))


def _failure(source: str, target: str, error: Exception) -> str:
    return f"{source} can't be written as {target} ({type(error).__name__})"


__all__ = [
    "CODECS",
    "EventTooLarge",
    "StreamTranslator",
    "Translation",
    "TranslationFailed",
    "Untranslatable",
]
