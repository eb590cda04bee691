"""The audit of cycles: the end of every product's cycle and every charge's time, and the part of a cycle that a charge costs,
computed again by the rules of the offering.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

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
# A change, and the end of the product, shorten the time of an earlier charge that is earned by time.
_CHARGES: Final = """
    SELECT c.charge_id, c.account_id, c.offering_version, c.kind, c.number, p.started_at, c.period_start, c.period_end, c.recognise, c.share_num,
        c.share_den, b.offering_version, c.closed_at IS NOT NULL OR p.ended_at IS NOT NULL
            OR EXISTS (SELECT 1 FROM charge d WHERE d.account_id = c.account_id AND d.product_id = c.product_id AND d.kind = 'change'
                       AND (d.charged_at, d.charge_id) > (c.charged_at, c.charge_id)),
        (SELECT max(f.rollover_until) FROM bucket f WHERE f.account_id = c.account_id AND f.charge_id = c.charge_id)
    FROM charge c JOIN product p USING (product_id) LEFT JOIN product b ON b.product_id = p.parent_id
    WHERE c.kind IN ('cycle', 'step', 'change')"""


class _Charge(NamedTuple):
    """A row of `_CHARGES`, after its ids and its offering's version."""

    kind: str
    number: int
    started_at: datetime
    begin: datetime
    end: datetime | None
    recognise: str
    num: int
    den: int
    bundle_version: str | None
    is_stopped: bool
    rollover_until: datetime | None


def cycles(connection: Connection) -> Iterator[Finding]:
    """Findings of products and charges whose times are not those of their offering's cycle, and of charges that cost another part
    of it.
    """
    offerings = _offerings(connection)
    for name, statement in (("product", _PRODUCTS), ("charge", _CHARGES)):
        with connection.cursor(f"cycles_{name}") as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(statement.encode())
            for id_, account_id, version, *row in cursor:
                offering = offerings.get(version)
                if offering is None:
                    problem: str | None = "its offering cannot be read"
                elif name == "product":
                    problem = _product_problem(offering, *row)
                else:
                    problem = _charge_problem(offerings, offering, _Charge(*row))
                if problem is not None:
                    yield Finding(INVARIANT, f"{name} {id_} of account {account_id}", problem)


def _offerings(connection: Connection) -> dict[str, Offering]:
    found = {}
    for version, content in connection.execute(b"SELECT offering_version, content FROM offering"):
        try:
            found[version] = Offering.model_validate_json(content)
        except ValidationError:
            continue
    return found


def _product_problem(
    offering: Offering, started_at: datetime, begin: datetime, end: datetime | None
) -> str | None:
    expected = end_of_cycle(offering, started_at, begin)
    return None if end == expected else f"its cycle from {begin} ends {end}, not {expected}"


def _charge_problem(offerings: dict[str, Offering], offering: Offering, charge: _Charge) -> str | None:
    begin, end, num, den = charge.begin, charge.end, charge.num, charge.den
    if charge.kind == "step":
        expected = cycle_end("once", begin, begin, offering.validity_days)
    else:
        expected = end_of_cycle(offering, charge.started_at, begin)
    may_be_shorter = charge.recognise == "time" and charge.is_stopped
    if end != expected and not (may_be_shorter and end is not None and _is_before(end, expected)):
        return f"it lasts from {begin} to {end}, not to {expected}"
    if charge.rollover_until is not None and (
        expected is None or charge.rollover_until != end_of_cycle(offering, charge.started_at, expected)
    ):
        return f"what is left of it goes on until {charge.rollover_until}"
    if charge.kind == "step":
        return None if (num, den) == (1, 1) else f"{num} of {den} parts of a step"
    bundle = None if charge.bundle_version is None else offerings.get(charge.bundle_version)
    policy = offering.proration if bundle is None else bundle.proration
    parts = {(proration.WHOLE.num, proration.WHOLE.den)}
    if expected is not None and offering.cycle != "once":
        whole_begin = cycle_begin(offering.cycle, charge.started_at, begin)
        if charge.kind != "change":
            part = proration.joined(policy, whole_begin, expected, begin)
        elif policy == "full":
            part = proration.WHOLE
        else:
            part = proration.rest(whole_begin, expected, begin)
        parts.add((part.num, part.den))
    if any(num * d == n * den for n, d in parts):
        return None
    return f"{num} of {den} parts of a cycle from {begin}: its offering's policy says {sorted(parts)}"


def _is_before(end: datetime, expected: datetime | None) -> bool:
    return expected is None or end < expected


__all__ = ["INVARIANT", "cycles"]
