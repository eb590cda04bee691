"""What an operation would cost, said before it is done: the operation itself, in a transaction that is rolled back.

So a quote is what the order is, to the nano, by the same instant, policy, contract and first month's price; nothing is written, no
number is burnt, and what would be refused is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offering, Offerings, Proration
from tokenworks.charging import Charge, Charges
from tokenworks.kernel import Clock
from tokenworks.subscriptions.errors import SecondNotConfirmed
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import product_store, work_store
from tokenworks.subscriptions.orders.change import ChangeTiming
from tokenworks.subscriptions.orders.sales import Sales, price_for
from tokenworks.subscriptions.orders.service import Orders
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault

Action = Literal["add", "modify", "resume", "delete"]
# A delivery by another system is charged with it; a credit waits until nothing of what it takes back is granted any more.
WaitsFor = Literal["delivery", "grants"]


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
    `now_nano`: what of that is charged, or given back, at once; the rest comes with what is waited for (`waits_for`).
    `begins_at`: now, or the end of the cycle that is running. `ends_at`: the instant at which the cycle ends, exclusive; None: it
    does not. `renews_at`, `renewal_nano`: when it is charged next, and how much, as things are; None: it does not renew.
    `at_most`: what comes back depends on what is still being used: it is this, or less. `second`: it is had already, and this
    would be one more.
    """

    action: Action
    offering_id: str
    offering_version: str
    proration: Proration
    currency: str
    lines: tuple[QuoteLine, ...]
    amount_nano: int
    tax_nano: int
    now_nano: int
    waits_for: WaitsFor | None
    begins_at: datetime
    ends_at: datetime | None
    renews_at: datetime | None
    renewal_nano: int | None
    at_most: bool
    second: bool = False

    @property
    def later_nano(self) -> int:
        """What comes with what is waited for: a charge, or below zero a credit."""
        return self.amount_nano - self.now_nano


class Quotes:
    """On one connection, with the rooms that it uses. Pages, HTTP and commands ask here and nowhere else.

    `confirm`: as of the operation; None: say in `second` whether it would have to be confirmed.
    """

    def __init__(
        self,
        connection: Connection,
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
        confirm: bool | None = False,
    ) -> Quote:
        """Of an order, as if all that others deliver were delivered now. Raises what `Orders.place` raises."""

        def act(confirm: bool) -> Quote:
            order = self._orders.place(subscriber, offering_id, delivery=delivery, confirm=confirm)
            now_nano = sum(charge.amount_nano for charge in self._made(order.product_id, set()))
            asked = work_store.work_orders_of(self._connection, order.order_id)
            for work in asked:
                self._orders.answer(work, done=True)
            made = self._quote("add", order.product_id, set(), now_nano=now_nano)
            return replace(made, waits_for="delivery") if asked else made

        return self._rolled_back(act, confirm)

    def change(
        self, product_id: UUID, offering_id: str, when: ChangeTiming = "now", *, confirm: bool | None = False
    ) -> Quote:
        """Of another plan. Raises what `Orders.change` raises."""

        def act(confirm: bool) -> Quote:
            self._orders.catch_up(product_id)
            before = self._ids(product_id)
            order = self._orders.change(product_id, offering_id, when, confirm=confirm)
            return self._quote("modify", product_id, before, order.order_id, later=order.state == "pending")

        return self._rolled_back(act, confirm)

    def resume(self, product_id: UUID) -> Quote:
        """Of going on with a suspended product. Raises what `Orders.resume` raises."""

        def act(_confirm: bool) -> Quote:
            before = self._ids(product_id)
            self._orders.resume(product_id)
            return self._quote("resume", product_id, before)

        return self._rolled_back(act, False)

    def cancel(self, product_id: UUID, when: ChangeTiming = "now") -> Quote:
        """Of an end, now or with the cycle. Raises what `Orders.cancel` raises."""

        def act(_confirm: bool) -> Quote:
            self._orders.catch_up(product_id)
            before = self._ids(product_id)
            order = self._orders.cancel(product_id, when)
            return self._quote("delete", product_id, before, order.order_id, later=when == "cycle_end")

        return self._rolled_back(act, False)

    def of_all(self, subscriber: Subscriber, act: Callable[[], object]) -> tuple[QuoteLine, ...]:
        """What something would charge at once for all that a subscriber has, such as the end of a pause. Raises what `act` raises."""
        with self._connection.transaction(force_rollback=True):
            products = [p.product_id for p in self._orders.products(subscriber) if p.parent_id is None]
            before = {id_: self._ids(id_) for id_ in products}
            act()
            return tuple(_line(made) for id_ in products for made in self._made(id_, before[id_]))

    def price(self, subscriber: Subscriber, offering: Offering, at: datetime) -> int:
        """What a later cycle that begins at a time costs the subscriber, in nano."""
        return price_for(self._connection, subscriber, offering, at)

    def _rolled_back(self, act: Callable[[bool], Quote], confirm: bool | None) -> Quote:
        try:
            with self._connection.transaction(force_rollback=True):
                return act(confirm or False)
        except SecondNotConfirmed:
            if confirm is not None:
                raise
        with self._connection.transaction(force_rollback=True):
            return replace(act(True), second=True)

    def _ids(self, product_id: UUID) -> set[UUID]:
        return {charge.charge_id for charge in self._made(product_id, set())}

    def _made(self, product_id: UUID, before: set[UUID]) -> list[Charge]:
        """The charges of a product and its parts that were not there before."""
        return [
            charge
            for id_ in (product_id, *product_store.parts_of(self._connection, product_id))
            for charge in self._charges.of_product(id_)
            if charge.charge_id not in before
        ]

    def _quote(
        self,
        action: Action,
        product_id: UUID,
        before: set[UUID],
        order_id: UUID | None = None,
        *,
        later: bool = False,
        now_nano: int | None = None,
    ) -> Quote:
        if now_nano is None:
            now_nano = sum(charge.amount_nano for charge in self._made(product_id, before))
        waits = order_id is not None and self._orders.give_back_at_most(order_id)
        product, subscriber_id = self._orders.product(product_id)
        subscriber = people_store.find_subscriber(self._vault, subscriber_id=subscriber_id)
        assert subscriber is not None
        made = self._made(product_id, before)
        sold = self._offerings.sold(product.next_version or product.offering_version)
        now = self._clock.now()
        renews = self._renews(product)
        return Quote(
            action=action,
            offering_id=sold.offering.id,
            offering_version=sold.offering_version,
            proration=sold.offering.proration,
            currency=sold.offering.currency,
            lines=tuple(_line(charge) for charge in made),
            amount_nano=sum(c.amount_nano for c in made),
            tax_nano=sum(c.tax_nano for c in made),
            now_nano=now_nano,
            waits_for="grants" if waits else None,
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


def _line(charge: Charge) -> QuoteLine:
    return QuoteLine(charge.description, charge.description_zh, charge.amount_nano, charge.tax_nano)
