"""Every cycle anew: when a product's cycle and a charge's time end, by the rules that made them, and what a part of a cycle costs."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from psycopg import Connection
from pydantic import ValidationError

from tokenworks.catalog import Offering
from tokenworks.charging import Finding
from tokenworks.subscriptions.model import cycle_begin, cycle_end
from tokenworks.subscriptions.orders import proration
from tokenworks.subscriptions.orders.sales import end_of_cycle

INVARIANT: Final = "product: its cycle and its charges end, and cost, by the rules of its offering"
FETCH_ROWS: Final = 5000

_PRODUCTS: Final = """
    SELECT p.product_id, p.account_id, p.offering_version, p.started_at, p.cycle_start, p.cycle_end FROM product p"""
# A change ends what was charged before it where that is earned with time; a product's end does, too.
_CHARGES: Final = """
    SELECT c.charge_id, c.account_id, c.offering_version, c.kind, c.number, p.started_at, c.period_start, c.period_end, c.recognise, c.share_num,
        c.share_den, b.offering_version, c.closed_at IS NOT NULL OR p.ended_at IS NOT NULL
            OR EXISTS (SELECT 1 FROM charge d WHERE d.account_id = c.account_id AND d.product_id = c.product_id AND d.kind = 'change'
                       AND (d.charged_at, d.charge_id) > (c.charged_at, c.charge_id)),
        (SELECT max(f.rollover_until) FROM bucket f WHERE f.account_id = c.account_id AND f.charge_id = c.charge_id)
    FROM charge c JOIN product p USING (product_id) LEFT JOIN product b ON b.product_id = p.parent_id
    WHERE c.kind IN ('cycle', 'step', 'change')"""


def cycles(connection: Connection) -> Iterator[Finding]:
    """Products and charges whose times are not those of their offering's cycle, and charges that cost another part of it."""
    offerings = _offerings(connection)
    for name, statement, problem in (("product", _PRODUCTS, _product), ("charge", _CHARGES, _charge)):
        with connection.cursor(f"cycles_{name}") as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(statement.encode())
            for id_, account_id, version, *row in cursor:
                offering = offerings.get(version)
                found = (
                    "its offering cannot be read" if offering is None else problem(offerings, offering, row)
                )
                if found is not None:
                    yield Finding(INVARIANT, f"{name} {id_} of account {account_id}", found)


def _offerings(connection: Connection) -> dict[str, Offering]:
    found = {}
    for version, content in connection.execute(b"SELECT offering_version, content FROM offering"):
        try:
            found[version] = Offering.model_validate_json(content)
        except ValidationError:
            continue
    return found


def _product(_offerings: dict[str, Offering], offering: Offering, row: list[Any]) -> str | None:
    started_at, begin, end = row
    expected = end_of_cycle(offering, started_at, begin)
    return None if end == expected else f"its cycle from {begin} ends {end}, not {expected}"


def _charge(offerings: dict[str, Offering], offering: Offering, row: list[Any]) -> str | None:
    kind, _number, started_at, begin, end, recognise, num, den, bundle_version, stopped, rollover_until = row
    if kind == "step":
        expected = cycle_end("once", begin, begin, offering.validity_days)
    else:
        expected = end_of_cycle(offering, started_at, begin)
    if end != expected and not (
        recognise == "time" and stopped and end is not None and _before(end, expected)
    ):
        return f"it lasts from {begin} to {end}, not to {expected}"
    if rollover_until is not None and (
        expected is None or rollover_until != end_of_cycle(offering, started_at, expected)
    ):
        return f"what is left of it goes on until {rollover_until}"
    if kind == "step":
        return None if (num, den) == (1, 1) else f"{num} of {den} parts of a step"
    policies = {offering.proration}
    if bundle_version in offerings:
        policies = {offerings[bundle_version].proration}
    parts = {(proration.WHOLE.num, proration.WHOLE.den)}
    if expected is not None and offering.cycle != "once":
        whole = cycle_begin(offering.cycle, started_at, begin)
        for policy in policies:
            if kind == "change":
                part = proration.rest(whole, expected, begin) if policy != "full" else proration.WHOLE
            else:
                part = proration.joined(policy, whole, expected, begin)
            parts.add((part.num, part.den))
    if any(num * d == n * den for n, d in parts):
        return None
    return f"{num} of {den} parts of a cycle from {begin}: its offering's policy says {sorted(parts)}"


def _before(end: datetime, expected: datetime | None) -> bool:
    return expected is None or end < expected


__all__ = ["INVARIANT", "cycles"]
