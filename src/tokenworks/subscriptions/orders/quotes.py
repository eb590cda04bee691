"""What an operation would cost: the operation itself, in a transaction that is rolled back.

So a quote is exact to the nano: it uses the same instant, policy, contract and first month's price as the operation. Nothing is
written, no number of a sequence is used, and a quote raises what the operation would raise.
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
# A product that another system delivers is charged with its delivery; a credit waits until the grants that it takes back are
# closed.
WaitsFor = Literal["delivery", "grants"]


@dataclass(frozen=True, slots=True)
class QuoteLine:
    """A charge, or a credit with amounts below zero. VAT is included."""

    description: str
    description_zh: str
    amount_nano: int
    tax_nano: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What an operation costs now, which time that pays for, and what the renewal costs.

    `amount_nano`: the sum of the lines, with products that another system delivers, which are charged with their delivery.
    `now_nano`: the part of it that is charged, or credited, at once; the rest waits for `waits_for`.
    `begins_at`: now, or the end of the running cycle. `ends_at`: the exclusive end of the cycle; None: the cycle has no end.
    `renews_at`, `renewal_nano`: when the product is charged next, and how much, as far as that is known now; None: no renewal.
    `at_most`: the credit is this or less, since open grants may still be used. `second`: the subscriber has the offering already.
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
        """What is charged, or below zero credited, when the operation no longer waits (`waits_for`)."""
        return self.amount_nano - self.now_nano


class Quotes:
    """The quotes of all operations, for pages, HTTP and commands.

    `confirm`: as for the operation; None: the quote says in `second` whether the operation needs a confirmation.
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
        """Quote an order, as if all that other systems deliver were delivered now. Raises what `Orders.place` raises."""

        def act(confirm: bool) -> Quote:
            order = self._orders.place(subscriber, offering_id, delivery=delivery, confirm=confirm)
            now_nano = sum(charge.amount_nano for charge in self._new_charges(order.product_id, set()))
            work_order_ids = work_store.work_orders_of(self._connection, order.order_id)
            for work_order_id in work_order_ids:
                self._orders.answer(work_order_id, done=True)
            quote = self._quote("add", order.product_id, set(), now_nano=now_nano)
            return replace(quote, waits_for="delivery") if work_order_ids else quote

        return self._rolled_back(act, confirm)

    def change(
        self, product_id: UUID, offering_id: str, when: ChangeTiming = "now", *, confirm: bool | None = False
    ) -> Quote:
        """Quote a change to another plan. Raises what `Orders.change` raises."""

        def act(confirm: bool) -> Quote:
            self._orders.catch_up(product_id)
            before = self._charge_ids(product_id)
            order = self._orders.change(product_id, offering_id, when, confirm=confirm)
            return self._quote("modify", product_id, before, order.order_id, later=order.state == "pending")

        return self._rolled_back(act, confirm)

    def resume(self, product_id: UUID) -> Quote:
        """Quote the resumption of a suspended product. Raises what `Orders.resume` raises."""

        def act(_confirm: bool) -> Quote:
            before = self._charge_ids(product_id)
            self._orders.resume(product_id)
            return self._quote("resume", product_id, before)

        return self._rolled_back(act, False)

    def cancel(self, product_id: UUID, when: ChangeTiming = "now") -> Quote:
        """Quote a cancellation, now or with the end of the cycle. Raises what `Orders.cancel` raises."""

        def act(_confirm: bool) -> Quote:
            self._orders.catch_up(product_id)
            before = self._charge_ids(product_id)
            order = self._orders.cancel(product_id, when)
            return self._quote("delete", product_id, before, order.order_id, later=when == "cycle_end")

        return self._rolled_back(act, False)

    def of_all(self, subscriber: Subscriber, act: Callable[[], object]) -> tuple[QuoteLine, ...]:
        """The lines that an act on all products of a subscriber would charge at once, such as lifting a suspension. Raises what
        `act` raises.
        """
        with self._connection.transaction(force_rollback=True):
            products = [p.product_id for p in self._orders.products(subscriber) if p.parent_id is None]
            before = {id_: self._charge_ids(id_) for id_ in products}
            act()
            return tuple(_line(charge) for id_ in products for charge in self._new_charges(id_, before[id_]))

    def price(self, subscriber: Subscriber, offering: Offering, at: datetime) -> int:
        """The price in nano, for the subscriber, of a later cycle that begins at a time."""
        return price_for(self._connection, subscriber, offering, at)

    def _rolled_back(self, act: Callable[[bool], Quote], confirm: bool | None) -> Quote:
        """The quote of an act, which is rolled back. `act` takes `confirm`."""
        try:
            with self._connection.transaction(force_rollback=True):
                return act(confirm or False)
        except SecondNotConfirmed:
            if confirm is not None:
                raise
        with self._connection.transaction(force_rollback=True):
            return replace(act(True), second=True)

    def _charge_ids(self, product_id: UUID) -> set[UUID]:
        return {charge.charge_id for charge in self._new_charges(product_id, set())}

    def _new_charges(self, product_id: UUID, before: set[UUID]) -> list[Charge]:
        """The charges of a product and its parts, without those in `before`."""
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
            now_nano = sum(charge.amount_nano for charge in self._new_charges(product_id, before))
        waits_for_grants = order_id is not None and self._orders.give_back_at_most(order_id)
        product, subscriber_id = self._orders.product(product_id)
        subscriber = people_store.find_subscriber(self._vault, subscriber_id=subscriber_id)
        assert subscriber is not None
        charges = self._new_charges(product_id, before)
        sold = self._offerings.sold(product.next_version or product.offering_version)
        now = self._clock.now()
        renews = self._renews(product)
        return Quote(
            action=action,
            offering_id=sold.offering.id,
            offering_version=sold.offering_version,
            proration=sold.offering.proration,
            currency=sold.offering.currency,
            lines=tuple(_line(charge) for charge in charges),
            amount_nano=sum(charge.amount_nano for charge in charges),
            tax_nano=sum(charge.tax_nano for charge in charges),
            now_nano=now_nano,
            waits_for="grants" if waits_for_grants else None,
            begins_at=product.cycle_end if later and product.cycle_end is not None else now,
            ends_at=now if action == "delete" and not later else product.cycle_end,
            renews_at=product.cycle_end if renews else None,
            renewal_nano=self._sales.next_price(subscriber, product, product.cycle_end)
            if renews and product.cycle_end is not None
            else None,
            at_most=waits_for_grants,
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
