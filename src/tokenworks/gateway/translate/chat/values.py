"""Tolerant reading of decoded JSON: a value of another type than expected counts as missing."""

import math

from tokenworks.gateway.translate.form import JsonObject

_WHOLE_MAX = 2**53


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def bool_of(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def whole_of(value: object) -> int | None:
    """A whole number, also if it is written as a float."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE_MAX:
        return int(value)
    return value if isinstance(value, int) else None


def positive_of(value: object) -> int | None:
    number = whole_of(value)
    return number if number is not None and number > 0 else None


def number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def object_of(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    return value if isinstance(value, list) else []
