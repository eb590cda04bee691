"""What a request would cost a subscriber: by the first of the subscriber's buckets that pays for the model."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from tokenworks.catalog import Counts, RateCard, amount
from tokenworks.charging.ledger.model import Bucket


def first_that_pays(
    buckets: Iterable[Bucket], cards: Mapping[str, RateCard], model: str, counts: Counts, now: datetime
) -> tuple[int, str, bool]:
    """Return (cost in thousandths, the unit, True if a bucket pays). Buckets are spent by priority, then expiry, then id, as the data
    plane spends them. `cards` has the rate cards by version.
    """
    live = [
        bucket
        for bucket in buckets
        if bucket.kind == "balance"
        and bucket.closing is None
        and (bucket.valid_until is None or bucket.valid_until > now)
    ]
    last = datetime.max.replace(tzinfo=now.tzinfo)
    for bucket in sorted(live, key=lambda b: (b.priority, b.valid_until or last, b.bucket_id.hex)):
        card = cards.get(bucket.rate_version)
        rate = None if card is None else card.rate_for(model)
        if rate is not None and ("*" in bucket.model_classes or rate.model_class in bucket.model_classes):
            return amount(rate.weights(), counts), f"thousandths of a {bucket.unit}", True
    return 0, "", False
