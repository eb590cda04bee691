"""Notices about orders and products, in the transaction of what they tell."""

from datetime import datetime, timedelta
from uuid import UUID

from tokenworks.catalog import Offering
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Product
from tokenworks.subscriptions.orders import product_store
from tokenworks.subscriptions.orders.context import Context


def order_done(context: Context, subscriber_id: UUID, order_id: UUID, offering: Offering) -> None:
    """All products of an order are active."""
    _tell(context, subscriber_id, "order.done", str(order_id), offering)


def renewed(context: Context, subscriber_id: UUID, product: Product, offering: Offering) -> None:
    """A plan's next cycle has begun. The parts of a bundle renew with it, and it alone is told."""
    if product.parent_id is None and product.cycle_end is not None:
        # The last day of the cycle: its end is the first instant after it.
        last = product.cycle_end - timedelta(seconds=1)
        _tell(
            context, subscriber_id, "plan.renewed", f"{product.product_id}:{product.cycle_no}", offering, last
        )


def ended(context: Context, subscriber_id: UUID, product: Product, offering: Offering) -> None:
    """A plan has ended by its own rule. Who cancels one knows it."""
    if product.parent_id is None:
        _tell(context, subscriber_id, "plan.ended", str(product.product_id), offering)


def tell_balances(context: Context, limit: int) -> int:
    """Make notices of a batch of marks, in one transaction with their deletion. Return how many were read. A step of pay-as-you-go is
    bought when the one before is used up: the notices of the cap tell of these.
    """
    with context.connection.transaction():
        marks = context.ledger.take_marks(limit)
        for account_id, bucket_id, percent in marks:
            bucket = next(
                (one for one in context.ledger.buckets(account_id) if one.bucket_id == bucket_id), None
            )
            if bucket is None or bucket.product_id is None or bucket.window_s is not None:
                continue
            found = product_store.product(context.connection, bucket.product_id)
            assert found is not None, "a bucket's product is never deleted"
            product, subscriber_id = found
            offering = context.offerings.sold(product.offering_version).offering
            if offering.kind == "pay_as_you_go" or bucket.used < bucket.total - bucket.total // 5:
                continue
            # A bucket that was made larger is told again.
            ref = f"{bucket_id}:{bucket.total}"
            kind = "balance.used_up" if percent == 100 else "balance.low"
            _tell(context, subscriber_id, kind, ref, offering, percent=bucket.used * 100 // bucket.total)
    return len(marks)


def _tell(
    context: Context,
    subscriber_id: UUID,
    kind: str,
    ref: str,
    offering: Offering,
    at: datetime | None = None,
    percent: int | None = None,
) -> None:
    content: dict[str, object] = {
        "offering": offering.id,
        "name": offering.name,
        "name_zh": offering.name_zh,
    }
    if at is not None:
        content["at"] = at.isoformat()
    if percent is not None:
        content["percent"] = percent
    notice_store.add_notification(context.connection, subscriber_id, kind, ref, content, context.clock.now())
