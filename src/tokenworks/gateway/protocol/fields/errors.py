"""What is wrong with a body, as a refusal."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.errors import Refusal

# What a decoder raises on bytes that are not JSON, not UTF-8, or nested without end.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BodyError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def invalid(message: str, param: str | None = None, code: str = "invalid_body") -> BodyError:
    return BodyError(Refusal(400, code, message, param=param))


def unpriced(name: str, why: str) -> BodyError:
    said = f": {why}" if why else ""
    return invalid(
        f"{name} would move the price or the upstream's state, and is not sold here{said}",
        name,
        "unpriced_field",
    )
