"""Notices about orders and products, in the transaction of what they tell."""

from datetime import datetime, timedelta
from uuid import UUID

from tokenworks.catalog import Offering
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Product
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


def _tell(
    context: Context,
    subscriber_id: UUID,
    kind: str,
    ref: str,
    offering: Offering,
    at: datetime | None = None,
) -> None:
    content: dict[str, object] = {
        "offering": offering.id,
        "name": offering.name,
        "name_zh": offering.name_zh,
    }
    if at is not None:
        content["at"] = at.isoformat()
    notice_store.add_notification(context.connection, subscriber_id, kind, ref, content, context.clock.now())
