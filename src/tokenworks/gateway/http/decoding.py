"""A response body that begins neither as JSON nor as events: coded, though no coding was requested, or with a byte order mark."""

from collections.abc import Callable
from typing import Final, Protocol

from tokenworks.gateway.http.coding import PIECE_BYTES, CodingError, Decoder, is_plain, make_decoder, sniffed

BOM: Final = b"\xef\xbb\xbf"
# The first byte of a byte order mark, of gzip, of zstd.
CODED_FIRST_BYTES: Final = frozenset({b"\xef", b"\x1f", b"\x28"})
MAGIC_BYTES: Final = 3
# Decoded bytes of one answer in a turn of the loop (about 5 ms), and at once when data arrives.
TURN_BYTES: Final = 1_048_576
AT_ONCE_BYTES: Final = 262_144
# The first bytes of a body, which show what it is, however few of them come at a time.
SNIFFED_BYTES: Final = 64
_EVENT_BEGINS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def looks_like_events(data: bytes) -> bool:
    """True if a body that begins so is a stream of events (the HTML standard, 9.2.6), whatever its content type says."""
    return data[:SNIFFED_BYTES].removeprefix(BOM).lstrip().startswith(_EVENT_BEGINS)


class CodedBodySource(Protocol):
    """The connection that a coded body comes over."""

    @property
    def user(self) -> object | None:
        """The part that receives the response; None once it does not want it."""

    def decodes_with(self, coded: "CodedBody") -> bool: ...
    def hand_over(self, data: bytes) -> None:
        """Give decoded data to the user."""

    def decode_later(self, turn: Callable[[], None]) -> None:
        """Call `turn` in a turn of the loop, and read nothing until then."""

    def read_on(self) -> None: ...
    def end(self) -> None:
        """The body is decoded to its end."""

    def fail(self, reason: str) -> None: ...


class CodedBody:
    """A response body that is decoded in turns of the loop, and no faster than its user takes it."""

    __slots__ = (
        "_coding",
        "_connection",
        "_decoded",
        "_decoded_max",
        "_decoder",
        "_first",
        "_marked",
        "_over",
        "_waits",
        "paused",
        "pending",
    )

    def __init__(self, connection: CodedBodySource, coding: bytes, decoded_max: int) -> None:
        self._connection = connection
        self._coding = coding
        self._decoded_max = decoded_max
        self._decoder: Decoder | None = None
        self._first: bytes | None = b""  # the first bytes, until they are enough to recognise the coding
        self._decoded = 0
        self._marked = True  # a byte order mark may come
        self._over = False
        self._waits = False  # a turn of the loop is requested
        self.paused = False
        self.pending = False  # there is more to decode

    def data(self, user: object, data: bytes) -> None:
        """Take more of the body as it came."""
        if self._first is not None:
            data = self._first + data
            if len(data) < MAGIC_BYTES:
                self._first = data
                return
            self._begin(data)
        if self._decoder is None:
            self._hand_over(data)
            return
        self._decoder.push(data)
        if not self._waits:
            self._decode(user, AT_ONCE_BYTES)

    def _begin(self, data: bytes) -> None:
        self._first = None
        coding = self._coding or sniffed(data)
        if coding and not is_plain(data):
            self._decoder = make_decoder(coding)

    def _hand_over(self, data: bytes) -> None:
        if self._marked:
            self._marked = False
            data = data.removeprefix(BOM)
        if data:
            self._connection.hand_over(data)

    def _decode(self, user: object, bytes_max: int) -> None:
        decoder, connection = self._decoder, self._connection
        assert decoder is not None
        left = bytes_max
        self.pending = True
        while not self.paused:
            if left <= 0:
                self._later(user)
                return
            try:
                piece = decoder.pull(PIECE_BYTES)
            except CodingError:
                connection.fail("the answer is not in the coding that its head says")
                return
            if not piece:
                self.pending = False
                return
            left -= len(piece)
            self._decoded += len(piece)
            if self._decoded > self._decoded_max:
                connection.fail("the decoded answer is too large")
                return
            self._hand_over(piece)
            if connection.user is not user:
                return

    def _later(self, user: object) -> None:
        if self._waits:
            return
        self._waits = True
        self._connection.decode_later(lambda: self._go_on(user))

    def _go_on(self, user: object) -> None:
        self._waits = False
        connection = self._connection
        if connection.user is not user or not connection.decodes_with(self):
            return
        self._decode(user, TURN_BYTES)
        if connection.user is not user or self.pending:
            return
        if self._over:
            connection.end()
        else:
            connection.read_on()

    def resume(self) -> None:
        """Go on: the user takes more."""
        self.paused = False
        user = self._connection.user
        if self.pending and user is not None:
            self._later(user)

    def over(self, user: object) -> bool:
        """The response is read to its end. True if all of it has been handed over; else `end` is called later."""
        self._over = True
        if self._first:
            first, self._first = self._first, None
            self._hand_over(first)
            return self._connection.user is user
        return not self.pending
