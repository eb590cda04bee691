"""What an operation would cost, said before it is done: the operation itself, in a transaction that is rolled back.

So a quote is what the order is, to the nano, by the same instant, policy, contract and first month's price; nothing is written, no
number is burnt, and what would be refused is refused.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from tokenworks.catalog import Offering, Offerings, Proration
from tokenworks.charging import Charges
from tokenworks.kernel import Clock
from tokenworks.subscriptions import people_store, store, work_store
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import Orders, When
from tokenworks.subscriptions.sales import Sales, price_for
from tokenworks.trust import PersonVault

Action = Literal["add", "modify", "resume", "delete"]


@dataclass(frozen=True, slots=True)
class QuoteLine:
    """A charge, or a credit below zero, VAT included."""

    description: str
    description_zh: str
    amount_nano: int
    tax_nano: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What an operation costs now, until when that is, and what comes after it.

    `amount_nano`: the lines together; what a delivery by another system costs is in it, though it is charged with the delivery.
    `begins_at`: now, or the end of the cycle that is running. `ends_at`: the instant at which the cycle ends, exclusive; None: it
    does not. `renews_at`, `renewal_nano`: when it is charged next, and how much, as things are; None: it does not renew.
    `at_most`: what comes back depends on what is still being used: it is this, or less.
    """

    action: Action
    offering_id: str
    offering_version: str
    proration: Proration
    currency: str
    lines: tuple[QuoteLine, ...]
    amount_nano: int
    tax_nano: int
    begins_at: datetime
    ends_at: datetime | None
    renews_at: datetime | None
    renewal_nano: int | None
    at_most: bool


class Quotes:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: store.Connection,
        offerings: Offerings,
        charges: Charges,
        orders: Orders,
        sales: Sales,
        clock: Clock,
        vault: PersonVault,
    ) -> None:
        self._vault = vault
        self._connection = connection
        self._offerings = offerings
        self._charges = charges
        self._orders = orders
        self._sales = sales
        self._clock = clock

    def place(
        self,
        subscriber: Subscriber,
        offering_id: str,
        *,
        delivery: str | None = None,
        confirm: bool = False,
    ) -> Quote:
        """Of an order, as if all that others deliver were delivered now. Raises what `Orders.place` raises."""
        with self._connection.transaction(force_rollback=True):
            order = self._orders.place(subscriber, offering_id, delivery=delivery, confirm=confirm)
            for work in work_store.work_orders_of(self._connection, order.order_id):
                self._orders.answer(work, done=True)
            return self._quote("add", order.product_id, set())

    def change(
        self, product_id: UUID, offering_id: str, when: When = "now", *, confirm: bool = False
    ) -> Quote:
        """Of another plan. Raises what `Orders.change` raises."""
        with self._connection.transaction(force_rollback=True):
            self._orders.catch_up(product_id)
            before = self._ids(product_id)
            order = self._orders.change(product_id, offering_id, when, confirm=confirm)
            return self._quote("modify", product_id, before, order.order_id, later=order.state == "pending")

    def resume(self, product_id: UUID) -> Quote:
        """Of going on with a suspended product. Raises what `Orders.resume` raises."""
        with self._connection.transaction(force_rollback=True):
            before = self._ids(product_id)
            self._orders.resume(product_id)
            return self._quote("resume", product_id, before)

    def cancel(self, product_id: UUID, when: When = "now") -> Quote:
        """Of an end, now or with the cycle. Raises what `Orders.cancel` raises."""
        with self._connection.transaction(force_rollback=True):
            self._orders.catch_up(product_id)
            before = self._ids(product_id)
            order = self._orders.cancel(product_id, when)
            return self._quote("delete", product_id, before, order.order_id, later=when == "cycle_end")

    def price(self, subscriber: Subscriber, offering: Offering, at: datetime) -> int:
        """What a later cycle that begins at a time costs the subscriber, in nano."""
        return price_for(self._connection, subscriber, offering, at)

    def _ids(self, product_id: UUID) -> set[UUID]:
        return {
            charge.charge_id
            for id_ in (product_id, *store.parts_of(self._connection, product_id))
            for charge in self._charges.of_product(id_)
        }

    def _quote(
        self,
        action: Action,
        product_id: UUID,
        before: set[UUID],
        order_id: UUID | None = None,
        *,
        later: bool = False,
    ) -> Quote:
        waits = order_id is not None and self._orders.give_back_at_most(order_id)
        product, subscriber_id = self._orders.product(product_id)
        subscriber = people_store.find_subscriber(self._vault, subscriber_id=subscriber_id)
        assert subscriber is not None
        made = [
            charge
            for id_ in (product_id, *store.parts_of(self._connection, product_id))
            for charge in self._charges.of_product(id_)
            if charge.charge_id not in before
        ]
        sold = self._offerings.sold(product.next_version or product.offering_version)
        now = self._clock.now()
        renews = self._renews(product)
        return Quote(
            action=action,
            offering_id=sold.offering.id,
            offering_version=sold.offering_version,
            proration=sold.offering.proration,
            currency=sold.offering.currency,
            lines=tuple(QuoteLine(c.description, c.description_zh, c.amount_nano, c.tax_nano) for c in made),
            amount_nano=sum(c.amount_nano for c in made),
            tax_nano=sum(c.tax_nano for c in made),
            begins_at=product.cycle_end if later and product.cycle_end is not None else now,
            ends_at=now if action == "delete" and not later else product.cycle_end,
            renews_at=product.cycle_end if renews else None,
            renewal_nano=self._sales.next_price(subscriber, product, product.cycle_end)
            if renews and product.cycle_end is not None
            else None,
            at_most=waits,
        )

    def _renews(self, product: Product) -> bool:
        return (
            product.state == "active"
            and product.renews
            and not product.ends_after_cycle
            and product.cycle_end is not None
        )
