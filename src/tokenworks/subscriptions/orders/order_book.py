"""Reading orders, products and work orders; nothing here changes them."""

from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.subscriptions.errors import OrderNotFound, ProductNotFound
from tokenworks.subscriptions.model import Order, Product, Subscriber, WorkOrder
from tokenworks.subscriptions.orders import order_store, product_store, work_store
from tokenworks.subscriptions.people import privacy_store
from tokenworks.trust import PersonVault

LIST_MAX: Final = 1000


def find_order(connection: Connection, order_id: UUID) -> tuple[Order, UUID]:
    """An order and its subscriber's id. Raises `OrderNotFound`."""
    found = order_store.order(connection, order_id)
    if found is None:
        raise OrderNotFound(f"there is no order {order_id}: `tokenworks order list` shows them")
    return found


class OrderBook:
    """Queries on one connection."""

    def __init__(self, connection: Connection, vault: PersonVault) -> None:
        self._connection = connection
        self._vault = vault

    def find(self, order_id: UUID) -> tuple[Order, UUID]:
        """An order and its subscriber's id. Raises `OrderNotFound`."""
        return find_order(self._connection, order_id)

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = LIST_MAX
    ) -> tuple[list[Order], int]:
        """A page of orders (of all subscribers, if none is given), newest first, and the number of all of them."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return order_store.orders(self._connection, subscriber_id, offset, min(limit, LIST_MAX))

    def product(self, product_id: UUID) -> tuple[Product, UUID]:
        """A product and its subscriber's id. Raises `ProductNotFound`."""
        found = product_store.product(self._connection, product_id)
        if found is None:
            raise ProductNotFound(f"there is no product {product_id}")
        return found

    def has_had(self, subscriber: Subscriber, offering_id: str) -> bool:
        """True if the subscriber, or another subscriber with the same identity, ever had an offering."""
        people = privacy_store.same_identity(self._connection, subscriber.subscriber_id)
        return product_store.times_had(self._connection, people, offering_id) > 0

    def products(self, subscriber: Subscriber) -> list[Product]:
        """All products of a subscriber, ended ones too, oldest first."""
        return product_store.products(self._connection, subscriber.subscriber_id)

    def to_come(self, subscriber: Subscriber) -> list[Order]:
        """Orders that wait for their start, in the order of their starts."""
        return order_store.orders_to_come(self._connection, subscriber.subscriber_id)

    def work_orders(self, state: str | None = "open") -> list[WorkOrder]:
        """Work orders in a state (None: in all), oldest first, at most `LIST_MAX`."""
        return work_store.work_orders(self._vault, state, LIST_MAX)
