"""Orders and what they leave in the inventory: place, change, cancel, suspend, resume, the monthly cycle, delivery.

Every step is one transaction: after a crash an order is where its last step left it, and nothing is half done.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Final, Literal
from uuid import UUID

from tokenworks.catalog import Offering, Offerings, SoldOffering
from tokenworks.charging import Charges, CreditLimitReached, FailedJobs, Ledger
from tokenworks.kernel import Clock, uuid7
from tokenworks.subscriptions.errors import (
    ChangeNotAllowed,
    KeyReused,
    ProductNotFound,
    TooManyToCome,
    WorkOrderAnswered,
    WorkOrderNotFound,
)
from tokenworks.subscriptions.model import (
    Order,
    PrivacyRules,
    Product,
    Subscriber,
    WorkOrder,
    check_idempotency_key,
)
from tokenworks.subscriptions.orders import store, work_store
from tokenworks.subscriptions.orders.eligibility import (
    LIVE,
    check_delivery,
    check_eligible,
    check_live,
    check_may_buy,
    checked_reason,
)
from tokenworks.subscriptions.orders.holds import hold
from tokenworks.subscriptions.orders.order_book import LIST_MAX, OrderBook
from tokenworks.subscriptions.orders.sales import Sales, end_of_cycle
from tokenworks.subscriptions.orders.starts import TO_COME_MAX, same_start, start_of
from tokenworks.subscriptions.orders.waiting import Waiting
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault

CYCLE_BATCH: Final = 500
# A delivery that is refused for now is asked for again so often; then the order fails and what it did is taken back.
DELIVERY_ATTEMPTS_MAX: Final = 3
When = Literal["now", "cycle_end"]


class Orders(OrderBook):
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: store.Connection,
        offerings: Offerings,
        ledger: Ledger,
        charges: Charges,
        clock: Clock,
        vault: PersonVault,
        rules: PrivacyRules,
    ) -> None:
        super().__init__(connection, vault)
        self._rules = rules
        self._offerings = offerings
        self._ledger = ledger
        self._charges = charges
        self._clock = clock
        self._sales = Sales(connection, offerings, ledger, charges, clock)
        self._failed = FailedJobs(connection, clock)
        self._waiting = Waiting(
            connection, vault, offerings, charges, clock, rules, self._begin, self._lock, self._resume
        )

    # Placing.

    def place(
        self,
        subscriber: Subscriber,
        offering_id: str,
        idempotency_key: str | None = None,
        *,
        delivery: str | None = None,
        confirm: bool = False,
        start: date | None = None,
    ) -> Order:
        """Order an offering: its products, their buckets and charges, in one transaction.

        What another system delivers is active and charged when that says so; until then the order is in progress. The same
        idempotency key again gives the same order and does nothing. Of what the subscriber has already, a second one is ordered
        with `confirm` alone. `start`: a later day, or instant, at which the order begins; until then nothing is charged, and no
        product is there (`waiting`). Raises `OfferingNotFound`, `OfferingNotActive`, `NotEligible`, `ConsentNeeded`,
        `RealNameNeeded`, `SecondNotConfirmed`, `SubscriberNotActive`, `CreditLimitReached`, `TooManyToCome`, `KeyReused`,
        `Invalid`.
        """
        check_idempotency_key(idempotency_key)
        with self._connection.transaction():
            known = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            assert known is not None
            if idempotency_key is not None:
                before = store.find_order(self._connection, known.subscriber_id, idempotency_key)
                if before is not None:
                    alike = same_start(before.starts_at, before.ordered_at, start)
                    if before.offering_id != offering_id or before.action != "add" or not alike:
                        raise KeyReused(
                            f"the idempotency key was used for {before.offering_id}: take another one"
                        )
                    return before
            check_may_buy(known, "nothing can be ordered")
            now = self._clock.now()
            starts_at = None if start is None else start_of(start, now)
            sold = self._offerings.on_sale(offering_id, now)
            check_eligible(
                self._connection, self._offerings, self._rules, known, sold.offering, confirm=confirm
            )  # fmt: skip
            check_delivery(sold.offering, delivery)
            order = Order(
                uuid7(), uuid7(), offering_id, sold.offering_version, now, 0, sold.offering.currency, new=True,
                state="inProgress" if starts_at is None else "acknowledged", starts_at=starts_at,
                delivery=None if starts_at is None else delivery, has_product=starts_at is None,
            )  # fmt: skip
            if starts_at is not None and len(self.to_come(known)) >= TO_COME_MAX:
                raise TooManyToCome(f"{TO_COME_MAX} orders wait for their start: cancel one, or order later")
            store.add_order(self._connection, known, order, idempotency_key)
            return order if starts_at is not None else self._begin(known, order, sold, delivery, now)

    def _begin(
        self, known: Subscriber, order: Order, sold: SoldOffering, delivery: str | None, at: datetime
    ) -> Order:
        """Make what an order that is kept already stands for, as of a time."""
        check_limit = self._charges.limited(known.account_id, known.credit_limit_nano)
        amount = self._add_product(known, order, order.product_id, sold, None, delivery, None, at)
        parts = self._sales.parts(known, sold, order.product_id, at, order.ordered_at)
        for part, price_nano in parts:
            amount += self._add_product(
                known, order, uuid7(), part, order.product_id, delivery, price_nano, at
            )
        # What is charged when it is delivered counts now: then it is too late to say no.
        own = self._sales.own_price(known, sold.offering, order.product_id, at)
        check_limit(sum(price for part, price in [*parts, (sold, own)] if part.offering.fulfilment))
        order = replace(order, amount_nano=amount)
        if self._delivered(order.order_id):
            order = replace(order, state="completed", completed_at=self._clock.now())
            store.end_order(self._connection, order.order_id, "completed", self._clock.now(), amount, None)
        else:
            store.set_order_state(self._connection, order.order_id, "inProgress")
            store.add_amount(self._connection, order.order_id, amount)
        return order

    def _add_product(
        self,
        subscriber: Subscriber,
        order: Order,
        product_id: UUID,
        sold: SoldOffering,
        parent_id: UUID | None,
        delivery: str | None,
        price_nano: int | None,
        at: datetime,
    ) -> int:
        """Returns what was charged at once."""
        offering = sold.offering
        waits = offering.fulfilment is not None
        product = Product(
            product_id=product_id,
            order_id=order.order_id,
            offering_id=offering.id,
            offering_version=sold.offering_version,
            state="pendingActive" if waits else "active",
            renews=offering.cycle != "once",
            cycle_no=1,
            started_at=at,
            cycle_start=at,
            cycle_end=end_of_cycle(offering, at, at),
            parent_id=parent_id,
            delivery=(delivery or (offering.deliveries[0] if offering.deliveries else None))
            if waits
            else None,
            price_nano=price_nano,
        )
        store.add_product(self._connection, subscriber, product)
        if waits:
            self._ask(subscriber.subscriber_id, product, offering, "deliver")
            return 0
        return self._activate(subscriber, product, sold, price_nano)

    def _activate(
        self, subscriber: Subscriber, product: Product, sold: SoldOffering, price_nano: int | None = None
    ) -> int:
        amount = self._sales.cycle(subscriber, product, sold, joined=True, price=price_nano)
        self._open_windows(subscriber, product, sold, product.cycle_start)
        return amount

    def _open_windows(
        self, subscriber: Subscriber, product: Product, sold: SoldOffering, begin: datetime
    ) -> None:
        self._ledger.open_windows(
            account_id=subscriber.account_id,
            product_id=product.product_id,
            specs=sold.offering.window_buckets(),
            rate_version=sold.rate_version,
            valid_from=begin,
            valid_until=None if product.renews else product.cycle_end,
        )

    # Delivery by another system.

    def _ask(
        self,
        subscriber_id: UUID,
        product: Product,
        offering: Offering,
        action: Literal["deliver", "withdraw"],
    ) -> None:
        assert offering.fulfilment is not None
        work = WorkOrder(
            uuid7(), product.order_id, product.product_id, subscriber_id, offering.fulfilment, offering.id, product.delivery,
            action, "open", 1, None, self._clock.now(),
        )  # fmt: skip
        work_store.add_work_order(self._vault, work)

    def _delivered(self, order_id: UUID) -> bool:
        return all(
            product.state != "pendingActive"
            for product in store.products_of_order(self._connection, order_id)
        )

    def answer(
        self,
        work_order_id: UUID,
        *,
        done: bool,
        reason: str | None = None,
        again: bool = False,
        attempt: int | None = None,
        timed_out: bool = False,
    ) -> Literal["open", "done", "refused"]:
        """What the delivering system says: done, or refused, for now (`again`) or for good. A delivery that fails takes the
        whole order back: what it charged is credited, what others delivered is withdrawn.

        The same answer again changes nothing; nor does one to an earlier `attempt`, where that is said. What is done after its
        time was over, or its order cancelled, is refused, and a work order to withdraw it is there. Raises `WorkOrderNotFound`, `WorkOrderAnswered`, `Invalid`.
        """
        reason = checked_reason(reason)
        with self._connection.transaction():
            subscriber_id = work_store.subscriber_of_work_order(self._connection, work_order_id)
            subscriber = subscriber_id and people_store.lock_subscriber(self._vault, subscriber_id)
            work = work_store.lock_work_order(self._vault, work_order_id)
            if work is None or not subscriber:
                raise WorkOrderNotFound(f"there is no work order {work_order_id}: tokenworks order work list")
            if work.state != "open":
                if done and work.state == "refused" and work.action == "deliver":
                    work_store.withdraw_delivery(self._vault, work, self._clock.now())
                elif done != (work.state == "done"):
                    raise WorkOrderAnswered(f"work order {work_order_id} is {work.state} already")
                return work.state
            if attempt is not None and attempt < work.attempts:
                return "open"
            now = self._clock.now()
            state: Literal["open", "done", "refused"] = "done" if done else "refused"
            attempts = work.attempts
            if not done and again and attempts < DELIVERY_ATTEMPTS_MAX:
                state, attempts = "open", attempts + 1
            work_store.answer_work_order(self._connection, work_order_id, state, attempts, reason, now)
            if state == "open":
                work_store.ask_again(self._connection, work_order_id, now)
            if work.action == "deliver" and state == "done":
                self._deliver(subscriber, work)
            elif work.action == "deliver" and state == "refused":
                self._fail(subscriber, work, reason or "the delivery was refused")
            if timed_out:  # it may have been done after all
                work_store.withdraw_delivery(self._vault, work, now)
        return state

    def _deliver(self, subscriber: Subscriber, work: WorkOrder) -> None:
        found = store.lock_product(self._connection, work.product_id)
        assert found is not None
        product = found[0]
        # What is delivered while a suspension stops charging begins, and costs, once that is lifted: `go_on`.
        if product.state != "pendingActive" or not subscriber.begins_cycles:
            return
        now, sold = self._clock.now(), self._offerings.sold(product.offering_version)
        product = replace(
            product, state="active", started_at=now, cycle_start=now, cycle_end=end_of_cycle(sold.offering, now, now)
        )  # fmt: skip
        store.set_product(
            self._connection, product.product_id, state="active", started_at=now, cycle_start=now, cycle_end=product.cycle_end
        )  # fmt: skip
        amount = self._activate(subscriber, product, sold)
        if self._delivered(work.order_id):
            store.end_order(self._connection, work.order_id, "completed", now, amount, None)
        else:
            store.add_amount(self._connection, work.order_id, amount)

    def _fail(self, subscriber: Subscriber, work: WorkOrder, reason: str) -> None:
        given_back = 0
        for product in store.products_of_order(self._connection, work.order_id):
            if product.state in {"active", "suspended"}:
                charges = self._charges.of_product(product.product_id)
                self._end(product, subscriber, "aborted")
                for charge in charges:
                    left = charge.amount_nano - charge.credited_nano
                    if charge.kind in {"cycle", "change", "step"} and left:
                        self._charges.credit(
                            charge,
                            left,
                            "credit",
                            f"{charge.description}: not delivered",
                            f"{charge.description_zh}（未交付）",
                        )
                        given_back += left
            elif product.state == "pendingActive":
                store.set_product(
                    self._connection, product.product_id, state="aborted", ended_at=self._clock.now()
                )
                other = work_store.delivery_of(self._vault, product.product_id)
                if other is not None and other.state == "open":
                    work_store.close_delivery(self._vault, other, reason, self._clock.now())
        store.end_order(self._connection, work.order_id, "failed", self._clock.now(), -given_back, reason)

    # Changing and ending.

    def _lock(self, product_id: UUID) -> tuple[Product, Subscriber]:
        """Subscriber first, then product: the order in which everything here locks."""
        subscriber_id = store.subscriber_of_product(self._connection, product_id)
        if subscriber_id is None:
            raise ProductNotFound(
                f"there is no product {product_id}: `tokenworks subscriber show` lists them"
            )
        subscriber = people_store.lock_subscriber(self._vault, subscriber_id)
        found = store.lock_product(self._connection, product_id)
        assert subscriber is not None and found is not None
        return found[0], subscriber

    def _lock_live(self, product_id: UUID) -> tuple[Product, Subscriber]:
        product, subscriber = self._lock(product_id)
        check_live(product)
        return product, subscriber

    def _again(
        self,
        subscriber: Subscriber,
        product_id: UUID,
        idempotency_key: str | None,
        action: str,
        offering_id: str | None = None,
    ) -> Order | None:
        """The order that this key made before, whatever its product is now. Raises `KeyReused`."""
        check_idempotency_key(idempotency_key)
        if idempotency_key is None:
            return None
        before = store.find_order(self._connection, subscriber.subscriber_id, idempotency_key)
        if before is not None and (
            before.action != action
            or before.product_id != product_id
            or offering_id not in {None, before.offering_id}
        ):
            raise KeyReused("the idempotency key was used for another order: take another one")
        return before

    def cancel(self, product_id: UUID, when: When = "now", idempotency_key: str | None = None) -> Order:
        """End a product now, or with its cycle. What is unused is withdrawn; buckets with open grants follow when these
        close. Now: what comes back says the offering's proration policy, and waits for open grants; until then the order is in
        progress. Raises `ProductNotFound`, `ProductEnded`, `ChangeNotAllowed`.
        """
        with self._connection.transaction():
            product, subscriber = self._lock(product_id)
            before = self._again(subscriber, product_id, idempotency_key, "delete")
            if before is not None:
                return before
            check_live(product)
            if product.parent_id is not None:
                raise ChangeNotAllowed(f"{product.offering_id} is a part of a bundle: cancel the bundle")
            if when == "cycle_end" and product.cycle_end is None:
                raise ChangeNotAllowed(f"{product.offering_id} has no cycle: cancel it now")
            product = self._caught_up(subscriber, product)
            now = self._clock.now()
            order = Order(
                uuid7(), product_id, product.offering_id, product.offering_version, now, 0, "CNY", new=True, action="delete",
                state="inProgress" if when == "now" else "pending",
            )  # fmt: skip
            store.add_order(self._connection, subscriber, order, idempotency_key)
            if when == "cycle_end":
                for part in self._live_parts(subscriber, product):
                    store.set_product(
                        self._connection, part.product_id, ends_after_cycle=True, next_version=None
                    )
                return order
            back = self._end_all(subscriber, product, credit=True)
            store.set_asked(self._connection, order.order_id, {"why": "cancelled", "credits": back})
            self._finish_credits(order.order_id)
            found = store.order(self._connection, order.order_id)
            assert found is not None
        return replace(found[0], new=True)

    def end(self, product_id: UUID) -> None:
        """End a product and its parts now, and give nothing back: the caller does. In the caller's transaction."""
        product, subscriber = self._lock_live(product_id)
        self._end_all(subscriber, product, credit=False)

    def _live_parts(self, subscriber: Subscriber, product: Product) -> list[Product]:
        """A product, and the parts of a bundle, as far as they live; locked."""
        ids = [product.product_id, *store.parts_of(self._connection, product.product_id)]
        found = [store.lock_product(self._connection, id_) for id_ in ids]
        return [
            self._caught_up(subscriber, one[0]) if one[0].parent_id is not None else one[0]
            for one in found
            if one is not None and one[0].state in LIVE
        ]

    def _end_all(self, subscriber: Subscriber, product: Product, *, credit: bool) -> list[dict[str, object]]:
        """Returns what is to be given back, as `Sales.give_back` takes it."""
        back: list[dict[str, object]] = []
        for part in self._live_parts(subscriber, product):
            if credit and part.state != "pendingActive":
                back += self._sales.credits(part, self._clock.now())
            self._end(part, subscriber, "cancelled")
        return back

    def _end(
        self, product: Product, subscriber: Subscriber, state: Literal["cancelled", "aborted", "expired"]
    ) -> None:
        now = self._clock.now()
        store.set_product(self._connection, product.product_id, state=state, ended_at=now, held_at=None)
        self._ledger.withdraw_product(
            subscriber.account_id, product.product_id, "expire" if state == "expired" else "withdraw"
        )
        self._charges.stop(subscriber.account_id, product.product_id)
        for order_id in store.waiting_orders(self._connection, product.product_id, "pending"):
            store.end_order(
                self._connection, order_id, "completed" if state == "expired" else "cancelled", now, 0, None
            )
        offering = self._offerings.sold(product.offering_version).offering
        if offering.fulfilment is not None:
            delivered = work_store.delivery_of(self._vault, product.product_id)
            if delivered is not None and delivered.state == "done":
                self._ask(subscriber.subscriber_id, product, offering, "withdraw")
                if product.state == "pendingActive":
                    # Delivered while a suspension kept it from beginning.
                    store.end_order(
                        self._connection, product.order_id, "cancelled", now, 0, "cancelled before it began"
                    )
            elif delivered is not None and delivered.state == "open":
                work_store.close_delivery(self._vault, delivered, "the order was cancelled", now)
                store.end_order(
                    self._connection, product.order_id, "cancelled", now, 0, "cancelled before delivery"
                )

    def change(
        self,
        product_id: UUID,
        offering_id: str,
        when: When = "now",
        idempotency_key: str | None = None,
        *,
        confirm: bool = False,
    ) -> Order:
        """Another plan for a product. With the cycle's end: from the next cycle on. Now: what the new plan costs and brings for
        the rest of the cycle, and what comes back of the old one, say their proration policies (to or from a plan
        that is free until its next cycle, there); granted quantity is waited for, until then the order is in progress.

        What the subscriber may order it may change to, and nothing else: limits and conditions count here, too. Raises
        `ChangeNotAllowed`, `NotEligible`, `OfferingNotActive`, `ProductEnded` and what `place` raises.
        """
        with self._connection.transaction():
            product, subscriber = self._lock(product_id)
            before = self._again(subscriber, product_id, idempotency_key, "modify", offering_id)
            if before is not None:
                return before
            check_live(product)
            check_may_buy(subscriber, "nothing can be changed")
            if product.state != "active":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            product = self._caught_up(subscriber, product)
            if product.state != "active":
                raise CreditLimitReached(
                    "its next cycle is more than the credit limit allows: something has to be paid first"
                )
            now = self._clock.now()
            old, sold = (
                self._offerings.sold(product.offering_version),
                self._offerings.on_sale(offering_id, now),
            )
            if "free_until_next_cycle" in {old.offering.proration, sold.offering.proration}:
                when = "cycle_end"
            if old.offering.kind != "plan" or sold.offering.kind != "plan" or product.parent_id is not None:
                raise ChangeNotAllowed("only a plan of its own can be changed, and to a plan")
            if old.offering.cycle != sold.offering.cycle:
                raise ChangeNotAllowed("the plans have different cycles: cancel the one, and order the other")
            if sold.offering_version == product.offering_version:
                raise ChangeNotAllowed(f"the product is {offering_id} at this version already")
            if store.waiting_orders(self._connection, product_id, "inProgress"):
                raise ChangeNotAllowed("a change of this product is in progress: wait until it is done")
            check_eligible(
                self._connection, self._offerings, self._rules, subscriber, sold.offering, confirm=confirm, instead_of=product
            )  # fmt: skip
            order = Order(
                uuid7(), product_id, offering_id, sold.offering_version, now, 0, sold.offering.currency, new=True,
                action="modify", state="pending" if when == "cycle_end" else "inProgress",
            )  # fmt: skip
            for waiting in store.waiting_orders(self._connection, product_id, "pending"):
                store.end_order(self._connection, waiting, "cancelled", now, 0, "replaced by another change")
            store.add_order(self._connection, subscriber, order, idempotency_key)
            if when == "cycle_end":
                store.set_product(
                    self._connection, product_id, next_version=sold.offering_version, ends_after_cycle=False
                )
                return order
            asked = {"why": "changed", "credits": self._sales.credits(product, now)}
            check_limit = self._charges.limited(subscriber.account_id, subscriber.credit_limit_nano)
            # What rolled over from an earlier month was paid by that month's charge, and stays.
            self._ledger.withdraw_charge(subscriber.account_id, product_id, product.charge_id)
            self._ledger.withdraw_windows(subscriber.account_id, product_id)
            self._charges.stop(subscriber.account_id, product_id)
            changed = replace(product, offering_version=sold.offering_version, offering_id=offering_id)
            store.set_product(
                self._connection, product_id, offering_version=sold.offering_version, next_version=None, ends_after_cycle=False
            )  # fmt: skip
            amount = self._sales.change(subscriber, changed, sold, now)
            self._open_windows(subscriber, changed, sold, now)
            store.set_asked(self._connection, order.order_id, asked)
            store.add_amount(self._connection, order.order_id, amount)
            self._finish_credits(order.order_id)
            check_limit(0)
            found = store.order(self._connection, order.order_id)
            assert found is not None
        return replace(found[0], new=True)

    def _finish_credits(self, order_id: UUID) -> bool:
        """Credit what a change or a cancellation took away, once nothing of it is granted any more. Whether that is so."""
        locked = store.lock_order(self._connection, order_id)
        if locked is None or locked[0] != "inProgress":
            return False
        amount = self._sales.give_back(locked[2], locked[1])
        if amount is None:
            return False
        store.end_order(self._connection, order_id, "completed", self._clock.now(), -amount, None)
        return True

    def give_back_at_most(self, order_id: UUID) -> bool:
        """Credit what a change or a cancellation waits for, as if nothing that is granted was used: for a quote, which is rolled
        back. Whether it waited.
        """
        locked = store.lock_order(self._connection, order_id)
        if locked is None or locked[0] != "inProgress":
            return False
        self._sales.give_back(locked[2], locked[1], at_most=True)
        return True

    def finish_changes(self) -> int:
        """Changes and cancellations that waited for grants to close. Returns how many are done. Runs on many hosts at once."""
        done = 0
        for order_id in store.orders_with_credits(self._connection, self._failed.waiting("credit"), LIST_MAX):

            def finish(order_id: UUID = order_id) -> None:
                nonlocal done
                done += self._finish_credits(order_id)
                self._failed.done("credit", order_id)

            self._failed.run("credit", order_id, finish)
        return done

    def suspend(self, product_id: UUID) -> None:
        """Nothing more is spent of a product, and it does not renew. Raises `ChangeNotAllowed`."""
        with self._connection.transaction():
            product, subscriber = self._lock_live(product_id)
            if product.state != "active":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            self._caught_up(subscriber, product)
            store.set_product(self._connection, product_id, state="suspended", suspended_at=self._clock.now())
            self._ledger.set_paused(subscriber.account_id, product_id, paused=True)

    def resume(self, product_id: UUID) -> None:
        """Go on with a suspended product. Where its cycle has ended meanwhile, one begins now, for the rest of the month: what
        that costs says the offering's proration policy.
        """
        with self._connection.transaction():
            product, subscriber = self._lock_live(product_id)
            if product.state != "suspended":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            self._resume(subscriber, product)

    def _resume(self, subscriber: Subscriber, product: Product) -> None:
        store.set_product(
            self._connection, product.product_id, state="active", suspended_at=None, held_at=None
        )
        self._ledger.set_paused(subscriber.account_id, product.product_id, paused=False)
        self._continue(subscriber, replace(product, state="active"))

    def _continue(self, subscriber: Subscriber, product: Product) -> None:
        """Where a product's cycle has ended while nothing renewed it, the next one begins now, for the rest of the month: what
        that costs says the offering's proration policy. Raises `CreditLimitReached`.
        """
        if self._is_due(subscriber, product):
            self._next_cycle(subscriber, product, begin=self._clock.now(), joined=True)

    def _is_due(self, subscriber: Subscriber, product: Product) -> bool:
        """Whether the cycle is over and the product ends, or goes on with another one, which a suspension can stop."""
        over = product.cycle_end is not None and product.cycle_end <= self._clock.now()
        ends = not product.renews or product.ends_after_cycle
        return product.state == "active" and over and (ends or subscriber.begins_cycles)

    def go_on(self, subscriber: Subscriber) -> None:
        """No suspension of the subscriber stops new cycles any more: those that waited begin now, and so does what was delivered
        meanwhile; where the credit limit does not allow a cycle, its product is suspended. In the caller's transaction, the
        subscriber locked.
        """
        for known in store.products(self._connection, subscriber.subscriber_id):
            found = store.lock_product(self._connection, known.product_id)
            assert found is not None
            product = found[0]
            if product.state == "active":
                self._or_hold(subscriber, product, self._continue)
            elif product.state == "pendingActive":
                work = work_store.delivery_of(self._vault, product.product_id)
                if work is not None and work.state == "done":
                    self._deliver(subscriber, work)

    def _or_hold(
        self, subscriber: Subscriber, product: Product, step: Callable[[Subscriber, Product], None]
    ) -> None:
        """Begin a product's next cycle; where the credit limit does not allow it, the product is suspended."""
        try:
            with self._connection.transaction():
                step(subscriber, product)
        except CreditLimitReached:
            offering = self._offerings.sold(product.offering_version).offering
            hold(self._connection, self._ledger, self._clock, subscriber, product, offering)

    # The monthly cycle.

    def run_cycles(self) -> int:
        """Begin the next cycle of every product that is due, or expire it. Returns how many. Runs on many hosts at once.

        One that raises keeps no other from its turn: it is tried again later, and in the end put in quarantine (`FailedJobs`).
        """
        total = self._waiting.run_starts() + self._waiting.release_held()
        while due := store.due_products(
            self._connection, self._clock.now(), self._failed.waiting("cycle"), CYCLE_BATCH
        ):
            for product_id in due:
                total += self._failed.run("cycle", product_id, partial(self._renew, product_id))
        self._ledger.expire_due()
        self.finish_changes()
        return total

    def _renew(self, product_id: UUID) -> None:
        product, subscriber = self._lock(product_id)
        if self._is_due(subscriber, product):
            self._or_hold(subscriber, product, self._begin_due)
        self._failed.done("cycle", product_id)

    def _begin_due(self, subscriber: Subscriber, product: Product) -> None:
        self._next_cycle(subscriber, product, begin=product.cycle_end)

    def _caught_up(self, subscriber: Subscriber, product: Product) -> Product:
        """A product as its monthly job leaves it: what comes after a cycle's end and before the job is of the next cycle, as if
        the job had run in time. Raises `ProductEnded` where it ended with its cycle.
        """
        product = self._brought_on(subscriber, product)
        check_live(product)
        return product

    def _brought_on(self, subscriber: Subscriber, product: Product) -> Product:
        while self._is_due(subscriber, product):
            self._or_hold(subscriber, product, self._begin_due)
            found = store.lock_product(self._connection, product.product_id)
            assert found is not None
            product = found[0]
        return product

    def catch_up(self, product_id: UUID) -> None:
        """Begin the cycles of a product that are due, or end it, before it is looked at. In the caller's transaction."""
        product, subscriber = self._lock(product_id)
        self._brought_on(subscriber, product)

    def _next_cycle(
        self, subscriber: Subscriber, product: Product, *, begin: datetime | None, joined: bool = False
    ) -> None:
        """Raises `CreditLimitReached`."""
        assert begin is not None
        if product.parent_id is not None:
            bundle = store.lock_product(self._connection, product.parent_id)
            # What it costs says the bundle's version of that time.
            if bundle is not None and self._is_due(subscriber, bundle[0]):
                self._next_cycle(subscriber, bundle[0], begin=bundle[0].cycle_end)
        if not product.renews or product.ends_after_cycle:
            self._end(product, subscriber, "expired")
            return
        version = product.next_version or product.offering_version
        sold = self._offerings.sold(version)
        renewed = replace(
            product, offering_version=version, offering_id=sold.offering.id, cycle_no=product.cycle_no + 1,
            cycle_start=begin, cycle_end=end_of_cycle(sold.offering, product.started_at, begin), next_version=None,
        )  # fmt: skip
        if version != product.offering_version:
            self._ledger.withdraw_windows(subscriber.account_id, product.product_id)
            self._open_windows(subscriber, renewed, sold, begin)
            for order_id in store.waiting_orders(self._connection, product.product_id, "pending"):
                store.end_order(self._connection, order_id, "completed", self._clock.now(), 0, None)
        store.set_product(
            self._connection, product.product_id, offering_version=version, cycle_no=renewed.cycle_no, cycle_start=begin,
            cycle_end=renewed.cycle_end, next_version=None,
        )  # fmt: skip
        check_limit = self._charges.limited(subscriber.account_id, subscriber.credit_limit_nano)
        self._sales.cycle(subscriber, renewed, sold, joined=joined)
        check_limit(0)

    def drop_to_come(self, subscriber: Subscriber, reason: str) -> None:
        """Cancel what waits for its start. In the caller's transaction, the subscriber locked."""
        for order in self.to_come(subscriber):
            store.end_order(self._connection, order.order_id, "cancelled", self._clock.now(), 0, reason)

    def withdraw(self, order_id: UUID, reason: str | None = None) -> None:
        """Take back an order that is not done: one that waits for its start, for a cycle's end, or for its delivery.

        Raises `OrderNotFound`, `ChangeNotAllowed`, `Invalid`.
        """
        reason = checked_reason(reason)
        with self._connection.transaction():
            order, subscriber_id = self.find(order_id)
            subscriber = people_store.lock_subscriber(self._vault, subscriber_id)
            assert subscriber is not None
            order, _ = self.find(order_id)
            now = self._clock.now()
            if order.action != "add" and order.state == "pending":
                store.set_product(
                    self._connection, order.product_id, next_version=None, ends_after_cycle=False
                )
                store.end_order(self._connection, order_id, "cancelled", now, 0, reason)
                return
            if order.state == "acknowledged":
                store.end_order(self._connection, order_id, "cancelled", now, 0, reason)
                return
            products = store.products_of_order(self._connection, order_id)
            if (
                order.action != "add"
                or order.state != "inProgress"
                or any(p.state == "active" for p in products)
            ):
                raise ChangeNotAllowed(f"the order is {order.state}: cancel its product, or ask for a refund")
            for product in products:
                self._end(product, subscriber, "cancelled")
            store.end_order(self._connection, order_id, "cancelled", now, 0, reason)
