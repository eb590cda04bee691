"""What workers and the host's recorder say to each other over their Unix socket.

A frame is a length (u32, little endian), a kind (u8) and a msgpack body; one frame of each kind per turn of the
loop. `JOURNAL` bodies go into the journal as they came.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from tokenworks.kernel import TokenworksError

FRAME_HEADER: Final = struct.Struct("<IB")
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024

# Of what is below and of the snapshot that is published. A reload has workers of the release before for as long as they drain, beside a
# recorder of the new one: it takes their version, too, or the reload is refused.
VERSION: Final = 1
TAKES: Final = frozenset({1})

# Worker to recorder
HELLO: Final = 1  # [worker_id, pid]
STATE: Final = 2  # [[account, bucket, grant, outstanding], …]: after WELCOME
JOURNAL: Final = 3  # [message number, [op, …]]: START, PROGRESS, FINISH, DROP
ASK: Final = 4  # [[ask number, account, [cap bucket, …], model, need, {bucket: free}, nobody waits], …]
GIVE: Final = 5  # [recall number, account, [[bucket, grant, amount], …]]; recall number 0: on its own
REQUEST: Final = 6  # [request number, name, argument]: for the wiring (keys, upstream objects)
LIMIT: Final = 7  # [[number, tokens, [limit, …]], …]: may these begin?
LIMIT_BACK: Final = 8  # [[limit, slot, requests back, tokens back, over], …]
LIMIT_STATE: Final = 9  # [[limit, in flight, [[slot, requests, tokens], …]], …]: after STATE
QUEUE: Final = 10  # [[number, tokens, [limit, …], queued], …]: which of these has room, now or soon?
QUEUE_BACK: Final = 11  # [[queue, account, tokens counted, tokens used], …]
UNQUEUE: Final = 12  # [number, …]: not waited for any more
# Recorder to worker
WELCOME: Final = 17  # [last message number that is in the journal]
ACK: Final = 18  # [message number]: everything up to it is on disk
SLICE: Final = 19  # [[account, grant, terms, amount, spend_until_boot_ns], …]
ANSWER: Final = 20  # [[ask number, verdict], …]
RECALL: Final = 21  # [recall number, account, [bucket, …], keep giving back]
REPLY: Final = 22  # [request number, answer]
PUBLISH: Final = 23  # [name, content]: for the wiring (snapshot, changes)
LIMITED: Final = 25  # [[number, ms to wait (0: begin), which limit, what of it, slot], …]
QUEUED: Final = 26  # [[number, ms to wait (0: begin), which limit, what of it, slot, tokens counted], …]
DIE: Final = 24  # []: your attempts have been closed; leave

# Journal ops. A finish is [usage id, account, [[bucket, grant, amount], …], the usage record as JSON] and, where tokens may
# have been produced that are not charged, [ended at in ms, those tokens]: the recorder has to know only what was used of what
# and what was at risk; the record goes to the database as it came.
START: Final = 0
PROGRESS: Final = 1
FINISH: Final = 2
DROP: Final = 3

# Verdicts
ENOUGH: Final = 0
NOTHING_LEFT: Final = 1
ELSEWHERE: Final = 2  # other hosts hold what would cover it: try again soon
AWAY: Final = 3  # the database does not answer
PAYS_AS_IT_GOES: Final = 4  # nothing left, and what is missing would be bought, but not for a count of tokens
LATER: Final = 16  # and so many seconds: a window is used up, and the first of its uses comes back then

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
encode: Callable[[Any], bytes] = _encoder.encode
decode: Callable[[bytes | memoryview], Any] = _decoder.decode


class WireError(TokenworksError):
    """The other side does not speak this."""


def frame(kind: int, body: bytes) -> bytes:
    return FRAME_HEADER.pack(len(body), kind) + body


class FrameReader:
    """Bytes in, frames out."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
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
