"""The error of a body that the gateway refuses."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.errors import Refusal

# The exceptions of a decoder on bytes that are not JSON, are not UTF-8, or are nested too deeply.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BodyError(Exception):
    """A body is refused, with `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def invalid(message: str, param: str | None = None, code: str = "invalid_body") -> BodyError:
    return BodyError(Refusal(400, code, message, param=param))


def unpriced(name: str, why: str) -> BodyError:
    reason = f": {why}" if why else ""
    return invalid(
        f"{name} would move the price or the upstream's state, and is not sold here{reason}",
        name,
        "unpriced_field",
    )
