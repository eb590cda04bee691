"""Contents of responses: exact JSON, amounts, instants, absolute links."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from fastapi import Response

from tokenworks.kernel import NANO_PER_UNIT, exact_decimal
from tokenworks.web.urls import base_url

_encode = msgspec.json.Encoder(decimal_format="number").encode


def encode(content: object) -> bytes:
    """Exact JSON: decimals are written digit by digit, never as floats; links are absolute, as TMF630 has them."""
    return _encode(_linked(content))


def encode_for(content: object, reached: str) -> bytes:
    """As `encode`, for a message that answers no request (a notification): links begin with `reached`, our public address."""
    token = base_url.set(reached.rstrip("/"))
    try:
        return encode(content)
    finally:
        base_url.reset(token)


def _linked(content: object) -> object:
    if isinstance(content, Mapping):
        return {
            name: f"{base_url.get()}{value}"
            if name in {"href", "url"} and isinstance(value, str) and value.startswith("/")
            else _linked(value)
            for name, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [_linked(part) for part in content]
    return content


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, "application/json")


def money(amount_nano: int, currency: str = "CNY") -> dict[str, object]:
    """TMF Money."""
    return {"unit": currency, "value": exact_amount(amount_nano)}


def exact_amount(amount_nano: int) -> Decimal:
    return exact_decimal(amount_nano, NANO_PER_UNIT)


def instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def without_none(resource: Mapping[str, object]) -> dict[str, object]:
    """A resource without the fields that have no value."""
    return {name: value for name, value in resource.items() if value is not None}


def public_base_url() -> str:
    """The address under which the client of the current request reached us: scheme and host."""
    return base_url.get()
