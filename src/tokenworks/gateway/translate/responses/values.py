"""Reads single values of decoded JSON: a value of an unexpected type is absent."""

import math
from typing import Final

import msgspec

from tokenworks.gateway.translate.form import JsonObject, Untranslatable

_DATA: Final = "data:"
_BASE64: Final = ";base64"


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) else None


def object_of(value: object) -> JsonObject | None:
    return value if isinstance(value, dict) else None


def list_of(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def whole_of(value: object) -> int | None:
    return value if type(value) is int else None


def bool_of(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def number_of(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def split_data_url(url: str) -> tuple[str | None, str] | None:
    """(the media type, the base64 data) of a `data:` URL (RFC 2397); None if it is another URL or its data is not base64."""
    if url[:5].lower() != _DATA:
        return None
    head, comma, data = url[5:].partition(",")
    media_type, base64, rest = head.partition(_BASE64)
    if not comma or not base64 or rest:
        return None
    return media_type or None, data


def json_text(value: object) -> str:
    """The value as JSON. Raises `Untranslatable` if it is nested too deeply."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise Untranslatable("input", "a value in input is nested too deeply") from None


class Dropped:
    """The names of what is not carried, each once, in the order in which they were met."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        self._names[name] = None

    def names(self) -> tuple[str, ...]:
        return tuple(self._names)


def refuse_given(fields: JsonObject, reasons: dict[str, str]) -> None:
    """Raises `Untranslatable` if one of the named fields has a value."""
    for name, reason in reasons.items():
        if fields.get(name) not in (None, False):
            raise Untranslatable(name, f"{name} can't be used with this model: {reason}")
