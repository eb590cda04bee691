"""Filters of a list, as TMF630 writes them."""

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from fastapi import Request, Response

from tokenworks.kernel import Invalid, check_number
from tokenworks.web.bodies import checked_instant
from tokenworks.web.lists import Page, page_response, paginate

_Row = TypeVar("_Row")

# Resources that are looked through for a filter that the database does not know.
FILTERED_MAX: Final = 5000


def filtered_page(
    request: Request,
    page: Page,
    read: Callable[[int, int], tuple[Sequence[_Row], int]],
    resource: Callable[[_Row], Mapping[str, object]],
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> Response:
    """A page of what `read(offset, limit)` gives with its total, or of what of it matches the query's filters. Raises `Invalid`
    where there is more to look through than `FILTERED_MAX`.
    """
    if not is_filtered(request, *beside):
        found, total = read(page.offset, page.limit)
        return page_response(page, [resource(one) for one in found], total)
    all_of: list[Mapping[str, object]] = []
    total = 1
    while len(all_of) < total:
        found, total = read(len(all_of), 1000)
        if total > FILTERED_MAX:
            raise Invalid(f"there are {total} to look through: name a subscriber by relatedParty.id")
        all_of += [resource(one) for one in found]
        if not found:
            break
    return paginate(page, apply_filters(request, all_of, names, beside))


_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def apply_filters(
    request: Request,
    resources: Sequence[Mapping[str, object]],
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> list[Mapping[str, object]]:
    """What matches the query (TMF630): `name=value`, or one of `a,b`; `name.gte=value` and its like for instants and numbers;
    names with dots for attributes of attributes. Raises `Invalid` on other names; those `beside` are somebody else's business.
    """
    found = list(resources)
    for name, value in request.query_params.multi_items():
        if name in {"offset", "limit", "fields", *beside}:
            continue
        attribute, _, ending = name.rpartition(".")
        if name in names:
            wanted = set(value.split(","))
            found = [one for one in found if wanted & {_as_text(part) for part in _values_at(one, name)}]
        elif attribute in names and ending in _OPERATORS:
            bound = _comparable(value)
            found = [
                one
                for one in found
                if any(_matches(ending, part, bound) for part in _values_at(one, attribute))
            ]
        else:
            raise Invalid(f"one can filter by {', '.join(names)}, not by {name[:50]}")
    return found


def is_filtered(request: Request, *beside: str) -> bool:
    """True if the query asks for more than a page of all (and what is `beside`)."""
    return bool(set(request.query_params) - {"offset", "limit", "fields", *beside})


def _values_at(value: object, name: str) -> Iterator[object]:
    """What a name with dots means in a resource: any of a list."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _values_at(part, name)
    elif isinstance(value, Mapping):
        if name in value:
            inner = value[name]
            yield from inner if isinstance(inner, list | tuple) else (inner,)
        first, dot, rest = name.partition(".")
        if dot and first in value:
            yield from _values_at(value[first], rest)


def _as_text(value: object) -> str:
    """As JSON writes it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _comparable(text: str) -> datetime | Decimal:
    """An instant or a number. Raises `Invalid`."""
    with contextlib.suppress(ValueError):
        at = datetime.fromisoformat(text.replace(" ", "+"))
        return checked_instant(at if at.tzinfo else at.replace(tzinfo=UTC))
    with contextlib.suppress(ValueError, ArithmeticError):
        found = Decimal(str(check_number(text)))
        if found.is_finite():
            return found
    raise Invalid(f"{text[:50]!r} is neither an instant (RFC 3339, years 2000 to 9998) nor a number")


def _matches(name: str, value: object, bound: datetime | Decimal) -> bool:
    if isinstance(bound, datetime):
        with contextlib.suppress(ValueError):
            return _OPERATORS[name](datetime.fromisoformat(str(value)), bound)
        return False
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and _OPERATORS[name](value, bound)
