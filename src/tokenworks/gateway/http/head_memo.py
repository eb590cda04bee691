"""The last head of a connection: a head that differs from it in its content length alone is not parsed again."""

import re
from typing import Final

from tokenworks.gateway.http.head import Head

# Larger heads are not remembered.
MEMO_BYTES_MAX: Final = 4096
# A remembered head is in memory three times: before and after its length, and as headers.
MEMO_TIMES: Final = 3
LENGTH_DIGITS_MAX: Final = 13
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,12})(?=\r\n)", re.IGNORECASE)


class HeadMemo:
    """`head`: the remembered head, None if there is none; `before`: its bytes before the digits of its content length."""

    __slots__ = ("_after", "before", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.before = b""
        self._after = b""

    def prepare(self, raw: bytes) -> bool:
        """Set what the next head is compared with: the bytes before and after the digits of `raw`'s content length. False if the head
        can't be remembered; the caller sets `head` otherwise.
        """
        if len(raw) > MEMO_BYTES_MAX:
            return False
        found = _LENGTH.search(raw)
        if found is None:
            return False
        self.before, self._after = raw[: found.start(1)], raw[found.end(1) :]
        return True

    def body_start(self, head: Head, data: bytes) -> int:
        """The begin of the body if `data`, which begins with `before`, goes on like the remembered head: its content length is set then.
        Else -1.
        """
        at = len(self.before)
        end = data.find(b"\r", at, at + LENGTH_DIGITS_MAX)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return -1
        head.body_length = int(digits)
        return end + len(self._after)
