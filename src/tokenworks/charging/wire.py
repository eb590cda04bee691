"""The wire between workers and the host's recorder: a Unix socket, frames, and how each kind of frame is read.

A frame is a length (u32, little endian), a kind (u8) and a msgpack body; one frame of each kind per turn of the
loop. A body has a type of `messages.py`; a body that does not decode as its type is a `WireError`. `JOURNAL` bodies are written to the
journal unchanged.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from tokenworks.charging.messages import (
    Ack,
    AdmittedAnswer,
    Hello,
    JournalBatch,
    LimitRequest,
    LimitReturn,
    LimitState,
    Publication,
    QueueAnswer,
    QueueRequest,
    QueueReturn,
    Recall,
    Reply,
    Request,
    SliceAnswer,
    SliceGrant,
    SliceRequest,
    SliceReturn,
    SliceState,
    Verdict,
    Welcome,
)
from tokenworks.kernel import TokenworksError

FRAME_HEADER: Final = struct.Struct("<IB")
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024

# The version of the frames and of the published snapshot. During a reload, workers of the earlier release drain beside a recorder of the
# new one. `TAKES` has the versions of workers that this release's recorder takes; with others the reload is refused.
VERSION: Final = 1
TAKES: Final = frozenset({1})

# Worker to recorder
HELLO: Final = 1
STATE: Final = 2  # after WELCOME
JOURNAL: Final = 3
SLICE_REQUEST: Final = 4
SLICE_RETURN: Final = 5
REQUEST: Final = 6  # for the wiring (keys, upstream objects)
LIMIT_REQUEST: Final = 7
LIMIT_RETURN: Final = 8
LIMIT_STATE: Final = 9  # after STATE
QUEUE_REQUEST: Final = 10
QUEUE_RETURN: Final = 11
QUEUE_LEAVE: Final = 12  # numbers of queue requests that no client waits for any more
# Recorder to worker
WELCOME: Final = 17
ACK: Final = 18
SLICE_GRANT: Final = 19
SLICE_ANSWER: Final = 20
RECALL: Final = 21
REPLY: Final = 22
PUBLISH: Final = 23  # for the wiring (snapshot, changes)
FENCE: Final = 24  # nothing in it: your attempts have been closed; leave
LIMIT_ANSWER: Final = 25
QUEUE_ANSWER: Final = 26

# The tags of the operations in the journal.
START: Final = 0
PROGRESS: Final = 1
FINISH: Final = 2
DROP: Final = 3

# All that msgspec raises for bytes that do not decode.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Bytes = bytes | memoryview | msgspec.Raw
encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
decode: Callable[[Bytes], object] = msgspec.msgpack.Decoder().decode
"""Decodes without a type: for tools and tests."""

Body_co = TypeVar("Body_co", covariant=True)


class WireError(TokenworksError):
    """The other process sent something that this one cannot read."""


class BodyDecoder(Generic[Body_co]):
    """Reads the bodies of one kind of frame."""

    __slots__ = ("_decode", "name")

    def __init__(self, name: str, body: type[Body_co]) -> None:
        self.name = name
        self._decode: Callable[[Bytes], Body_co] = msgspec.msgpack.Decoder(body).decode

    def __call__(self, body: Bytes) -> Body_co:
        """Raises `WireError`."""
        try:
            return self._decode(body)
        except UNREADABLE as error:
            raise WireError(f"{self.name} is not what it should be: {error}") from error


decode_hello: Final = BodyDecoder("HELLO", Hello)
decode_state: Final = BodyDecoder("STATE", list[SliceState])
decode_journal: Final = BodyDecoder("JOURNAL", JournalBatch)
decode_slice_requests: Final = BodyDecoder("SLICE_REQUEST", list[SliceRequest])
decode_slice_returns: Final = BodyDecoder("SLICE_RETURN", list[SliceReturn])
decode_requests: Final = BodyDecoder("REQUEST", list[Request])
decode_limit_requests: Final = BodyDecoder("LIMIT_REQUEST", list[LimitRequest])
decode_limit_returns: Final = BodyDecoder("LIMIT_RETURN", list[LimitReturn])
decode_limit_state: Final = BodyDecoder("LIMIT_STATE", list[LimitState])
decode_queue_requests: Final = BodyDecoder("QUEUE_REQUEST", list[QueueRequest])
decode_queue_returns: Final = BodyDecoder("QUEUE_RETURN", list[QueueReturn])
decode_queue_leaves: Final = BodyDecoder("QUEUE_LEAVE", list[int])
decode_welcome: Final = BodyDecoder("WELCOME", Welcome)
decode_ack: Final = BodyDecoder("ACK", Ack)
decode_slice_grants: Final = BodyDecoder("SLICE_GRANT", list[SliceGrant])
decode_slice_answers: Final = BodyDecoder("SLICE_ANSWER", list[SliceAnswer])
decode_recall: Final = BodyDecoder("RECALL", Recall)
decode_reply: Final = BodyDecoder("REPLY", Reply)
decode_publication: Final = BodyDecoder("PUBLISH", Publication)
decode_limit_answers: Final = BodyDecoder("LIMIT_ANSWER", list[AdmittedAnswer])
decode_queue_answers: Final = BodyDecoder("QUEUE_ANSWER", list[QueueAnswer])

BODIES: Final[dict[int, BodyDecoder[object]]] = {
    HELLO: decode_hello,
    STATE: decode_state,
    JOURNAL: decode_journal,
    SLICE_REQUEST: decode_slice_requests,
    SLICE_RETURN: decode_slice_returns,
    REQUEST: decode_requests,
    LIMIT_REQUEST: decode_limit_requests,
    LIMIT_RETURN: decode_limit_returns,
    LIMIT_STATE: decode_limit_state,
    QUEUE_REQUEST: decode_queue_requests,
    QUEUE_RETURN: decode_queue_returns,
    QUEUE_LEAVE: decode_queue_leaves,
    WELCOME: decode_welcome,
    ACK: decode_ack,
    SLICE_GRANT: decode_slice_grants,
    SLICE_ANSWER: decode_slice_answers,
    RECALL: decode_recall,
    REPLY: decode_reply,
    PUBLISH: decode_publication,
    FENCE: BodyDecoder("FENCE", list[object]),
    LIMIT_ANSWER: decode_limit_answers,
    QUEUE_ANSWER: decode_queue_answers,
}
"""The decoder of each kind of frame."""


def verdict_code(verdict: Verdict, back_s: int = 0) -> int:
    """A verdict and its seconds as one number for `SliceAnswer`: the seconds are added to `WINDOW_USED_UP`, the largest verdict."""
    return int(verdict) + (back_s if verdict is Verdict.WINDOW_USED_UP else 0)


def verdict_of(code: int) -> tuple[Verdict, int]:
    """The verdict and its seconds in a number of `verdict_code`. Raises `WireError`."""
    if code >= Verdict.WINDOW_USED_UP:
        return Verdict.WINDOW_USED_UP, code - Verdict.WINDOW_USED_UP
    try:
        return Verdict(code), 0
    except ValueError as error:
        raise WireError(f"no such verdict: {code}") from error


def frame(kind: int, body: bytes) -> bytes:
    return FRAME_HEADER.pack(len(body), kind) + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (kind, body) of each frame that is complete. Raises `WireError`."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 5:
            length, kind = FRAME_HEADER.unpack_from(data, at)
            if length > FRAME_BYTES_MAX:
                raise WireError(f"a frame of {length} bytes")
            if end - at < 5 + length:
                break
            yield kind, data[at + 5 : at + 5 + length]
            at += 5 + length
        self._rest = data[at:]
