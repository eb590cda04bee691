"""Filters of a list, as TMF630 defines them."""

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

# At most so many resources are read to apply a filter that no index serves.
FILTERED_MAX: Final = 5000


def filtered_page(
    request: Request,
    page: Page,
    read: Callable[[int, int], tuple[Sequence[_Row], int]],
    resource: Callable[[_Row], Mapping[str, object]],
    names: Sequence[str],
    ignored: Sequence[str] = (),
) -> Response:
    """A page of a list. `read(offset, limit)` returns rows and their total number; `resource` makes a resource of a row; `names` can
    be filtered by; parameters in `ignored` are read by the caller. Raises `Invalid` if more than `FILTERED_MAX` rows would have
    to be read for a filter.
    """
    if not is_filtered(request, *ignored):
        found, total = read(page.offset, page.limit)
        return page_response(page, [resource(row) for row in found], total)
    resources: list[Mapping[str, object]] = []
    total = 1
    while len(resources) < total:
        found, total = read(len(resources), 1000)
        if total > FILTERED_MAX:
            raise Invalid(f"there are {total} to look through: name a subscriber by relatedParty.id")
        resources += [resource(row) for row in found]
        if not found:
            break
    return paginate(page, apply_filters(request, resources, names, ignored))


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
    ignored: Sequence[str] = (),
) -> list[Mapping[str, object]]:
    """The resources that match the query (TMF630): `name=value`, or any of `a,b`; `name.gte=value` and the other operators for
    instants and numbers; a name with dots for an attribute of an attribute. Raises `Invalid` for other names, except those in
    `ignored`, which the caller reads.
    """
    found = list(resources)
    for name, value in request.query_params.multi_items():
        if name in {"offset", "limit", "fields", *ignored}:
            continue
        attribute, _, ending = name.rpartition(".")
        if name in names:
            wanted = set(value.split(","))
            found = [item for item in found if wanted & {_as_text(value) for value in _values_at(item, name)}]
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


def is_filtered(request: Request, *ignored: str) -> bool:
    """True if the query has filters, `ignored` ones not counted."""
    return bool(set(request.query_params) - {"offset", "limit", "fields", *ignored})


def _values_at(value: object, name: str) -> Iterator[object]:
    """The values at a name with dots in a resource; of a list, those of every item."""
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
    """A value as JSON writes it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _comparable(text: str) -> datetime | Decimal:
    """A bound to compare with: an instant or a number. Raises `Invalid`."""
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
