"""Every balance and every window against the offering that it was sold from: unit, quantity, priority, model classes, rollover."""

from collections.abc import Iterator
from typing import Any, Final

from psycopg import Connection
from pydantic import ValidationError

from tokenworks.catalog import BucketSpec, Offering
from tokenworks.charging import PER_UNIT, Finding, share

INVARIANT: Final = "bucket: it is what its offering sells, as much of it as was charged for"
FETCH_ROWS: Final = 5000

# Of a balance that cost nothing, and of a window, no row says the offering's version: it is one of those that its product was.
_BUCKETS: Final = """
    SELECT b.bucket_id, b.account_id, b.kind, b.unit, b.priority, b.model_classes, b.rate_version, b.window_s, b.window_quantity,
        b.rollover_left, coalesce(i.amount, 0), coalesce(r.amount, 0), c.offering_version, c.share_num, c.share_den,
        CASE WHEN c.offering_version IS NULL THEN ARRAY(SELECT DISTINCT v.offering_version FROM offering v
              WHERE v.rate_version = b.rate_version AND v.offering_id IN (
                  SELECT offering_id FROM offering WHERE offering_version IN (p.offering_version, p.next_version)
                  UNION SELECT o.offering_id FROM product_order o WHERE o.order_id = p.order_id OR o.product_id = p.product_id
                  UNION SELECT w.offering_id FROM charge h JOIN offering w USING (offering_version)
                      WHERE h.account_id = b.account_id AND h.product_id = p.product_id
                  UNION SELECT part.value FROM product_order o JOIN offering w USING (offering_version)
                      CROSS JOIN LATERAL jsonb_array_elements_text(w.content::jsonb->'parts') part (value)
                      WHERE o.order_id = p.order_id AND p.parent_id IS NOT NULL)) END
    FROM bucket b LEFT JOIN product p USING (product_id)
        LEFT JOIN charge c ON c.account_id = b.account_id AND c.charge_id = b.charge_id
        LEFT JOIN (SELECT q.account_id, q.bucket_id, sum(q.amount) AS amount FROM posting q JOIN entry e USING (account_id, entry_id)
                   WHERE e.kind = 'issue' AND q.ledger_account = 'customer_liability' GROUP BY 1, 2) i
            ON i.account_id = b.account_id AND i.bucket_id = b.bucket_id
        LEFT JOIN (SELECT q.account_id, q.bucket_id, -sum(q.amount) AS amount FROM posting q JOIN entry e USING (account_id, entry_id)
                   WHERE e.kind = 'rollover' AND NOT (q.ledger_account = 'customer_liability' AND q.amount > 0) GROUP BY 1, 2) r
            ON r.account_id = b.account_id AND r.bucket_id = b.bucket_id
    WHERE b.kind IN ('balance', 'window') AND b.product_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM bucket f WHERE f.account_id = b.account_id AND f.rollover_to = b.bucket_id)"""


def sold(connection: Connection) -> Iterator[Finding]:
    """Buckets that no version of their product's offering sells so."""
    offerings = _offerings(connection)
    with connection.cursor("sold") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(_BUCKETS.encode())
        for bucket_id, account_id, *row in cursor:
            problem = _problem(offerings, row)
            if problem is not None:
                yield Finding(INVARIANT, f"bucket {bucket_id} of account {account_id}", problem)


def _offerings(connection: Connection) -> dict[str, tuple[Offering, str]]:
    """(offering, rate version) by version, of those that can be read: the hash of one that was changed is another check's."""
    found = {}
    for version, rate_version, content in connection.execute(
        b"SELECT offering_version, rate_version, content FROM offering"
    ):
        try:
            found[version] = (Offering.model_validate_json(content), rate_version)
        except ValidationError:
            continue
    return found


def _problem(offerings: dict[str, tuple[Offering, str]], row: list[Any]) -> str | None:
    (kind, unit, priority, classes, rate_version, window_s, window_quantity, rollover_left, issued, rolled, charged_version, num, den,
     versions) = row  # fmt: skip
    known = [
        offerings[version]
        for version in ([charged_version] if charged_version else versions)
        if version in offerings
    ]
    for offering, rate in known:
        if rate != rate_version:
            continue
        specs = offering.window_buckets() if kind == "window" else offering.cycle_buckets()
        for spec in specs:
            if (spec.unit, spec.priority, spec.model_classes) != (unit, priority, tuple(classes)):
                continue
            if kind == "window":
                if (spec.window_s, spec.quantity * PER_UNIT) == (window_s, window_quantity):
                    return None
                continue
            if _is_quantity(spec, issued, num, den) and _rolls(offering, spec, issued, rolled, rollover_left):
                return None
    said = f"{issued} {unit}" if kind == "balance" else f"{window_quantity} {unit} in {window_s} s"
    return f"{said}, priority {priority}, {rate_version}: {len(known)} version(s) of its offering sell no such {kind}"


def _is_quantity(spec: BucketSpec, issued: int, num: int | None, den: int | None) -> bool:
    """Of what was charged, the charge's share; of what cost nothing, at most the whole."""
    if num is None or den is None:
        return 0 < issued <= spec.quantity * PER_UNIT and issued % PER_UNIT == 0
    return issued == share(spec.quantity, num, den) * PER_UNIT


def _rolls(offering: Offering, spec: BucketSpec, issued: int, rolled: int, rollover_left: int | None) -> bool:
    """`rolled` counts what expired beyond it, too: what is left to go on is between the two."""
    if offering.rollover is None:
        return rollover_left is None
    if rollover_left is None:
        return False
    most = min(issued, (offering.rollover.quantity_max or spec.quantity) * PER_UNIT)
    return most - rolled <= rollover_left <= most


__all__ = ["INVARIANT", "sold"]
