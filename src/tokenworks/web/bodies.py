"""What is read of a body and a query, with the one rule of `kernel.text` and bounds."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Self

from fastapi import Depends, Query, Request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from tokenworks.kernel import NUMBER_CHARS_MAX, Invalid, check_number, flaw_in

BODY_BYTES_MAX: Final = 64 * 1024 * 1024


class _CheckedBody(BaseModel):
    """Every text that is read of a body, in lists and objects too, is checked by the one rule of `kernel.text`."""

    @model_validator(mode="after")
    def _texts(self) -> Self:
        for name in type(self).model_fields:
            found = flaw_in(getattr(self, name))
            if found is not None:
                raise ValueError(f"{name} has {found}: leave it out")
        return self


class TmfBody(_CheckedBody):
    """Of a standard: what it allows beside what is read here passes, and is kept nowhere."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


# Exactly what was written: no float, no other scripts' digits, which `Decimal` would take.
ExactNumber = Annotated[
    Decimal,
    BeforeValidator(check_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "maxLength": NUMBER_CHARS_MAX}]}),
]

# The years in which an instant that is kept lies: one at the ends of time has no UTC, and no column holds it.
INSTANT_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
INSTANT_LAST: Final = datetime(9998, 12, 31, tzinfo=UTC)


def checked_instant(at: datetime) -> datetime:
    if not INSTANT_FIRST <= at <= INSTANT_LAST:
        raise ValueError(f"an instant is of the years {INSTANT_FIRST.year} to {INSTANT_LAST.year}")
    return at.astimezone(UTC)


# An instant with its offset, as RFC 3339 writes it.
Instant = Annotated[AwareDatetime, AfterValidator(checked_instant)]

# Whose: a subscriber's id, phone or broadband number.
SubscriberReference = Annotated[str | None, Query(max_length=64)]


class Reference(TmfBody):
    """By whose id something is named."""

    id: str = Field(min_length=1, max_length=64)


class StrictBody(_CheckedBody):
    """Of our own: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


async def _body(request: Request) -> bytes:
    """A body as it came. Raises `Invalid` where it is too long, before it is all here."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Invalid(f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


RawBody = Annotated[bytes, Depends(_body)]
