"""Types of request bodies and query parameters: every text obeys the rule of `kernel.text` and has a bound."""

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


class CheckedBody(BaseModel):
    """A body whose texts, also those in lists and objects, obey the rule of `kernel.text`. Fields that are not read are ignored."""

    @model_validator(mode="after")
    def _texts(self) -> Self:
        for name in type(self).model_fields:
            flaw = flaw_in(getattr(self, name))
            if flaw is not None:
                raise ValueError(f"{name} has {flaw}: leave it out")
        return self


class TmfBody(CheckedBody):
    """A body of a TM Forum standard: fields that are not read here are accepted and ignored."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


# Exactly the number that was written. Floats are refused, and so are digits of other scripts, which `Decimal` would accept.
ExactNumber = Annotated[
    Decimal,
    BeforeValidator(check_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "maxLength": NUMBER_CHARS_MAX}]}),
]

# An instant that is kept lies between these: one at the limits of `datetime` has no UTC, and no column holds it.
INSTANT_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
INSTANT_LAST: Final = datetime(9998, 12, 31, tzinfo=UTC)


def checked_instant(at: datetime) -> datetime:
    if not INSTANT_FIRST <= at <= INSTANT_LAST:
        raise ValueError(f"an instant is of the years {INSTANT_FIRST.year} to {INSTANT_LAST.year}")
    return at.astimezone(UTC)


# An instant with its offset, as RFC 3339 writes it.
Instant = Annotated[AwareDatetime, AfterValidator(checked_instant)]

# A subscriber, by id, phone number or broadband number.
SubscriberReference = Annotated[str | None, Query(max_length=64)]


class Reference(TmfBody):
    """A reference to another resource, by its id."""

    id: str = Field(min_length=1, max_length=64)


class StrictBody(CheckedBody):
    """A body of our own API: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


async def _body(request: Request) -> bytes:
    """The raw body. Raises `Invalid` as soon as it is too long, without reading the rest."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Invalid(f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


RawBody = Annotated[bytes, Depends(_body)]
