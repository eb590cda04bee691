"""The client's own id of a request, kept beside the gateway's id in the usage record, the log and the answer.

It is the client's `x-client-request-id`, else its `x-request-id`. A value that may be something else than an id is ignored, and the
request is served all the same.
"""

import re
from collections.abc import Mapping
from typing import Final

OWN_ID_CHARS_MAX: Final = 128
_HEADERS: Final = (b"x-client-request-id", b"x-request-id")
# A letter or a digit, then characters of ids. No space, quote, escape or @, so that the id is the same in every log.
_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:~/=-]{0,%d}" % (OWN_ID_CHARS_MAX - 1))
# Digits alone may be a phone number.
_NUMBER: Final = re.compile(rb"[0-9.:~/=-]*")
_NUMBER_DIGITS: Final = range(7, 20)
# The begin of API keys, ours and vendors'.
_KEYS: Final = (b"twk_", b"sk-", b"sk_")


def own_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The client's own id of a request; None if it sent no valid one."""
    for name in _HEADERS:
        value = headers.get(name)
        if value is not None and is_own_id(value):
            return value.decode("ascii")
    return None


def is_own_id(value: bytes) -> bool:
    """True if a value is an id that may be kept and shown."""
    if not _ID.fullmatch(value) or value.lower().startswith(_KEYS):
        return False
    digits = sum(0x30 <= byte <= 0x39 for byte in value)
    return not (_NUMBER.fullmatch(value) and digits in _NUMBER_DIGITS)
