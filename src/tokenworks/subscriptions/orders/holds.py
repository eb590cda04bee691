"""What happens to a product whose next cycle the subscriber's credit limit does not allow."""

from tokenworks.catalog import Offering
from tokenworks.charging import Ledger
from tokenworks.kernel import Clock
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import store


def hold(
    connection: store.Connection,
    ledger: Ledger,
    clock: Clock,
    subscriber: Subscriber,
    product: Product,
    offering: Offering,
) -> None:
    """It is suspended and not charged, and the subscriber is told; it goes on by itself where there is room again
    (`Orders.release_held`).
    """
    now = clock.now()
    store.set_product(connection, product.product_id, state="suspended", suspended_at=now, held_at=now)
    ledger.set_paused(subscriber.account_id, product.product_id, paused=True)
    store.add_notification(
        connection, subscriber.subscriber_id, "credit_limit", f"{product.product_id}:{product.cycle_no}",
        {"offering": offering.id, "name": offering.name, "name_zh": offering.name_zh, "limit_nano": subscriber.credit_limit_nano}, now,
    )  # fmt: skip
