"""A copy of a stream as its client gets it, for the response cache and for the log of content."""

from tokenworks.gateway.memory import Budget


class AnswerCopy:
    """At most `bytes_max` bytes, counted in the worker's memory budget. A stream that is larger, or for which there is no memory, has no
    copy; with `cut` the copy ends there. `line`: what the head of the answer says of the cache. `size`: of the stream so far.
    """

    __slots__ = ("_address", "_bytes_max", "_memory", "_pieces", "_taken", "cut", "line", "lost", "size")

    def __init__(self, memory: Budget, address: str, bytes_max: int, *, cut: bool = False) -> None:
        self._memory = memory
        self._address = address
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._taken = 0
        self.cut = cut
        self.line = b"" if cut else b"x-tokenworks-cache: miss\r\n"
        self.lost = False
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.lost or (self.cut and self._taken == self._bytes_max):
            return
        if self.cut:
            piece = piece[: self._bytes_max - self._taken]
        if self._taken + len(piece) > self._bytes_max or not self._memory.take(self._address, len(piece)):
            self.forget()
            self.lost = True
            return
        self._taken += len(piece)
        self._pieces.append(piece)

    def content(self) -> bytes:
        assert not self.lost and self._taken <= self._bytes_max
        return b"".join(self._pieces)

    def forget(self) -> None:
        """Give the memory back."""
        self._memory.give(self._address, self._taken)
        self._taken, self._pieces = 0, []
