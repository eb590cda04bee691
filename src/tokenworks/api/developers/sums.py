"""Sums of usage as JSON, for the routes of keys and of accounts."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from tokenworks.charging import PER_UNIT, UsageSum
from tokenworks.kernel import Invalid, exact_decimal

SUMS_SHOWN_DEFAULT: Final = 100
SUMS_SHOWN_MAX: Final = 1000
CURSOR_CHARS_MAX: Final = 4000
# A tag as name=value.
TAG_TEXT_CHARS_MAX: Final = 321


def in_whole_units(thousandths: int | None) -> Decimal | int | None:
    """An amount in whole units, exact."""
    if thousandths is None or not thousandths % PER_UNIT:
        return None if thousandths is None else thousandths // PER_UNIT
    return exact_decimal(thousandths, PER_UNIT)


def drawn_shown(amounts: Mapping[str, int]) -> list[dict[str, object]]:
    """Amounts in thousandths, by unit."""
    return [{"unit": unit, "amount": in_whole_units(amount)} for unit, amount in sorted(amounts.items())]


def sum_shown(found: UsageSum) -> dict[str, object]:
    return {
        **found.group,
        "requests": found.records,
        "tokens": found.tokens,
        "drawn": drawn_shown(found.drawn),
    }


def page_shown(sums: Sequence[UsageSum], limit: int) -> dict[str, object]:
    """A page of at most `limit` groups, of which one more was read. `next` is the `after` of the next page; null for the last one."""
    page = sums[:limit]
    more = len(sums) > limit
    return {
        "object": "list",
        "data": [sum_shown(found) for found in page],
        "next": json.dumps(list(page[-1].group.values()), ensure_ascii=False) if more else None,
    }


def groups_of(text: str) -> list[str]:
    """What `by` names, between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def after_of(cursor: str | None) -> list[str] | None:
    """The last group of the previous page. Raises `Invalid`."""
    if cursor is None:
        return None
    try:
        found = json.loads(cursor)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(map(_is_storable, found)):
        raise Invalid("after: take it from the page before")
    return found


def _is_storable(value: object) -> bool:
    """True for a text that the database takes: without NUL and unpaired surrogates."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
