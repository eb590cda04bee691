"""What a request would cost is said of the bucket that it would be drawn from first."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tokenworks.catalog import Counts, seed_catalogue
from tokenworks.charging import first_that_pays
from tokenworks.charging.ledger.model import Bucket
from tokenworks.charging.messages import BucketTerms
from tokenworks.charging.model import hold_rate, spending_order

NOW = datetime(2027, 4, 1, tzinfo=UTC)
CARD = seed_catalogue().rate_cards[0]
MODEL = "any-model"


def bucket(number, **more):
    fields = {
        "bucket_id": UUID(int=number), "product_id": None, "kind": "balance", "unit": "token", "total": 1, "remaining": 1, "granted": 0,
        "granted_used": 0, "used": 0, "expired": 0, "withdrawn": 0, "priority": 1, "valid_from": NOW, "valid_until": None,
        "model_classes": ("*",), "rate_version": "r", "closing": None,
    }  # fmt: skip
    known = {name: value for name, value in (fields | more).items() if name in Bucket.__dataclass_fields__}
    return Bucket(**known)


def test_buckets_are_asked_in_the_order_of_the_data_plane():
    assert CARD.rate_for(MODEL) is not None
    counts = Counts(fresh_input=100, output=10)
    for seed in range(200):
        r = random.Random(seed)
        buckets = [
            bucket(
                number, unit=f"unit{number}", priority=r.choice((1, 2)),
                valid_until=r.choice((None, NOW + timedelta(days=1), NOW + timedelta(days=2), NOW)),
                kind=r.choice(("balance", "balance", "cap", "window")), rate_version=r.choice(("r", "r", "unknown")),
                model_classes=r.choice((("*",), ("none-such",))),
            )
            for number in range(6)
        ]  # fmt: skip
        all_terms = [
            BucketTerms(
                b.bucket_id.hex, "", b.kind, b.unit, b.priority,
                None if b.valid_until is None else int(b.valid_until.timestamp() * 1000), b.model_classes, b.rate_version,
            )
            for b in buckets
            if b.kind == "balance" and (b.valid_until is None or b.valid_until > NOW)
        ]  # fmt: skip
        rate = CARD.rate_for(MODEL)

        def lookup(version, model, rate=rate):
            return (rate.model_class, rate.weights()) if version == "r" else None

        paying = [terms for terms in sorted(all_terms, key=spending_order) if hold_rate(terms, lookup, MODEL)]
        cost, unit, paid = first_that_pays(buckets, {"r": CARD}, MODEL, counts, NOW)
        assert paid == bool(paying)
        assert unit == (f"thousandths of a {paying[0].unit}" if paying else "") and (cost > 0) == paid, seed
