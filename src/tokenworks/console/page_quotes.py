"""What an order, a change or an end would do, before it is done: it is done in a transaction that is rolled back."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenworks.console.web import Rooms
from tokenworks.subscriptions import Order, Product, SecondNotConfirmed, Subscriber


@dataclass(frozen=True, slots=True)
class Quote:
    """`amount_nano`: what is charged at once; below zero, what is given back on the next bill. `product` and `order`: as they would be."""

    amount_nano: int
    product: Product
    order: Order


def quote(rooms: Rooms, subscriber: Subscriber, act: Callable[[], Order]) -> Quote:
    """What `act` would do. Raises what it raises, so that a page says before the order why there can be none."""
    with rooms.connection.transaction(force_rollback=True):
        before = rooms.charges.receivable(subscriber.account_id)
        order = act()
        product, _ = rooms.orders.product(order.product_id)
        amount_nano = rooms.charges.receivable(subscriber.account_id) - before
    return Quote(amount_nano, product, order)


def quote_and_ask(rooms: Rooms, subscriber: Subscriber, act: Callable[..., Order]) -> tuple[Quote, bool]:
    """What `act`, which takes `confirm`, would do; and whether it has to be confirmed, since it is a second one of what is had.

    Raises what `act` raises.
    """
    try:
        return quote(rooms, subscriber, lambda: act(confirm=False)), False
    except SecondNotConfirmed:
        return quote(rooms, subscriber, lambda: act(confirm=True)), True
