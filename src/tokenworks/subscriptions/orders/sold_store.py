"""The audit of buckets: every balance and every window is as its offering sells it, in unit, quantity, priority, model classes
and rollover.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection
from pydantic import ValidationError

from tokenworks.catalog import BucketSpec, Offering
from tokenworks.charging import PER_UNIT, Finding, share

INVARIANT: Final = "bucket: it is what its offering sells, as much of it as was charged for"
FETCH_ROWS: Final = 5000

# A balance that cost nothing, and a window, have no charge that names the offering's version: the version is one of its
# product's.
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


class _Bucket(NamedTuple):
    """A row of `_BUCKETS`; amounts are in the bucket's own thousandths."""

    bucket_id: UUID
    account_id: UUID
    kind: str
    unit: str
    priority: int
    model_classes: list[str]
    rate_version: str
    window_s: int | None
    window_quantity: int | None
    rollover_left: int | None
    issued: int
    rolled: int
    charged_version: str | None
    share_num: int | None
    share_den: int | None
    # Of a bucket without a charge.
    possible_versions: list[str] | None


def sold(connection: Connection) -> Iterator[Finding]:
    """Findings of buckets that no version of their product's offering sells."""
    offerings = _offerings(connection)
    with connection.cursor("sold") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(_BUCKETS.encode())
        for row in cursor:
            bucket = _Bucket(*row)
            problem = _problem(offerings, bucket)
            if problem is not None:
                yield Finding(INVARIANT, f"bucket {bucket.bucket_id} of account {bucket.account_id}", problem)


def _offerings(connection: Connection) -> dict[str, tuple[Offering, str]]:
    """(offering, rate version) by version, without those that can't be read: another check reports content that was changed."""
    found = {}
    for version, rate_version, content in connection.execute(
        b"SELECT offering_version, rate_version, content FROM offering"
    ):
        try:
            found[version] = (Offering.model_validate_json(content), rate_version)
        except ValidationError:
            continue
    return found


def _problem(offerings: dict[str, tuple[Offering, str]], bucket: _Bucket) -> str | None:
    """What is wrong with a bucket; None if a version of its offering sells it."""
    versions = [bucket.charged_version] if bucket.charged_version else bucket.possible_versions or []
    known = [offerings[version] for version in versions if version in offerings]
    for offering, rate_version in known:
        if rate_version == bucket.rate_version and _sells(offering, bucket):
            return None
    quantity = f"{bucket.issued} {bucket.unit}"
    if bucket.kind != "balance":
        quantity = f"{bucket.window_quantity} {bucket.unit} in {bucket.window_s} s"
    return (
        f"{quantity}, priority {bucket.priority}, {bucket.rate_version}: {len(known)} version(s) of its offering "
        f"sell no such {bucket.kind}"
    )


def _sells(offering: Offering, bucket: _Bucket) -> bool:
    described = (bucket.unit, bucket.priority, tuple(bucket.model_classes))
    for spec in offering.window_buckets() if bucket.kind == "window" else offering.cycle_buckets():
        if (spec.unit, spec.priority, spec.model_classes) != described:
            continue
        if bucket.kind == "window":
            if (spec.window_s, spec.quantity * PER_UNIT) == (bucket.window_s, bucket.window_quantity):
                return True
        elif _is_quantity(spec, bucket) and _rolls_over(offering, spec, bucket):
            return True
    return False


def _is_quantity(spec: BucketSpec, bucket: _Bucket) -> bool:
    """A charged bucket has the charge's share of the quantity; one without a charge has at most the whole."""
    if bucket.share_num is None or bucket.share_den is None:
        return 0 < bucket.issued <= spec.quantity * PER_UNIT and bucket.issued % PER_UNIT == 0
    return bucket.issued == share(spec.quantity, bucket.share_num, bucket.share_den) * PER_UNIT


def _rolls_over(offering: Offering, spec: BucketSpec, bucket: _Bucket) -> bool:
    """`rolled` also counts what expired beyond the rollover, so that `rollover_left` has a lower and an upper bound."""
    if offering.rollover is None:
        return bucket.rollover_left is None
    if bucket.rollover_left is None:
        return False
    upper = min(bucket.issued, (offering.rollover.quantity_max or spec.quantity) * PER_UNIT)
    return upper - bucket.rolled <= bucket.rollover_left <= upper


__all__ = ["INVARIANT", "sold"]
