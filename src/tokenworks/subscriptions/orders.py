"""Orders and what they leave in the inventory: place, change, cancel, suspend, resume, the monthly cycle, delivery.

Every step is one transaction: after a crash an order is where its last step left it, and nothing is half done.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from tokenworks.catalog import Offering, Offerings, SoldOffering
from tokenworks.charging import Charge, Charges, Ledger, Sale, share
from tokenworks.kernel import Clock, check_reason, parse_money, uuid7
from tokenworks.subscriptions import people_store, store, work_store
from tokenworks.subscriptions.eligibility import (
    LIVE,
    beside_nothing,
    check_deliverable,
    check_delivery,
    check_live,
)
from tokenworks.subscriptions.errors import (
    ChangeNotAllowed,
    KeyReused,
    NotEligible,
    OrderNotFound,
    ProductNotFound,
    SubscriberNotActive,
    WorkOrderAnswered,
    WorkOrderNotFound,
)
from tokenworks.subscriptions.lawful import check_lawful
from tokenworks.subscriptions.model import (
    Order,
    PrivacyRules,
    Product,
    Subscriber,
    WorkOrder,
    check_idempotency_key,
    cycle_end,
)
from tokenworks.trust import PersonVault

CYCLE_BATCH: Final = 500
LIST_MAX: Final = 1000
# A delivery that is refused for now is asked for again so often; then the order fails and what it did is taken back.
DELIVERY_ATTEMPTS_MAX: Final = 3
When = Literal["now", "cycle_end"]


def _checked_reason(reason: str | None) -> str | None:
    """Raises `Invalid`."""
    return None if reason is None else check_reason(reason, optional=True)


def price_for(
    connection: store.Connection,
    subscriber: Subscriber,
    offering: Offering,
    at: datetime,
    *,
    first: bool = False,
) -> int:
    """What a cycle or a step costs a subscriber at a time, in nano: the contract's price, the first month's, or the offering's."""
    contract = store.contract_price(connection, subscriber.subscriber_id, offering.id, at)
    if contract is not None:
        return contract
    text = offering.first_price if first and offering.first_price else offering.price
    return parse_money(text, offering.currency).amount_nano


class Orders:
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
        self._connection = connection
        self._vault = vault
        self._rules = rules
        self._offerings = offerings
        self._ledger = ledger
        self._charges = charges
        self._clock = clock

    # Placing.

    def place(
        self,
        subscriber: Subscriber,
        offering_id: str,
        idempotency_key: str | None = None,
        *,
        delivery: str | None = None,
    ) -> Order:
        """Order an offering: its products, their buckets and charges, in one transaction.

        What another system delivers is active and charged when that says so; until then the order is in progress. The same
        idempotency key again gives the same order and does nothing. Raises `OfferingNotFound`, `OfferingNotActive`,
        `NotEligible`, `ConsentNeeded`, `RealNameNeeded`, `SubscriberNotActive`, `KeyReused`, `Invalid`.
        """
        check_idempotency_key(idempotency_key)
        with self._connection.transaction():
            known = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            assert known is not None
            if idempotency_key is not None:
                before = store.find_order(self._connection, known.subscriber_id, idempotency_key)
                if before is not None:
                    if before.offering_id != offering_id or before.action != "add":
                        raise KeyReused(
                            f"the idempotency key was used for {before.offering_id}: take another one"
                        )
                    return before
            if known.state != "active" or known.restricted:
                raise SubscriberNotActive("nothing can be ordered: what is owed has to be paid first")
            now = self._clock.now()
            sold = self._offerings.on_sale(offering_id, now)
            self._check_eligible(known, sold.offering)
            check_delivery(sold.offering, delivery)
            order = Order(
                uuid7(), uuid7(), offering_id, sold.offering_version, now, 0, sold.offering.currency, new=True,
                state="inProgress",
            )  # fmt: skip
            store.add_order(self._connection, known, order, idempotency_key)
            amount = self._add_product(known, order, order.product_id, sold, None, delivery, None)
            for part, price_nano in self._parts(known, sold):
                amount += self._add_product(
                    known, order, uuid7(), part, order.product_id, delivery, price_nano
                )
            order = replace(order, amount_nano=amount)
            if self._delivered(order.order_id):
                order = replace(order, state="completed", completed_at=now)
                store.end_order(self._connection, order.order_id, "completed", now, amount, None)
            else:
                store.add_amount(self._connection, order.order_id, amount)
        return order

    def _check_eligible(self, subscriber: Subscriber, offering: Offering) -> None:
        check_lawful(self._connection, self._rules, subscriber, offering)
        if subscriber.audiences is not None and not set(subscriber.audiences) & set(offering.audiences):
            raise NotEligible(f"{offering.id} is for {', '.join(offering.audiences)}")
        products = store.products(self._connection, subscriber.subscriber_id)
        live = {product.offering_id for product in products if product.state in LIVE}
        if offering.requires and not live & set(offering.requires):
            raise NotEligible(f"{offering.id} goes with {' or '.join(offering.requires)}: order that first")
        had = sum(product.offering_id == offering.id for product in products)
        if offering.per_subscriber_max is not None and had >= offering.per_subscriber_max:
            raise NotEligible(f"{offering.id} can be had {offering.per_subscriber_max} time(s)")
        if offering.kind == "pay_as_you_go" and offering.id in live:
            raise NotEligible(f"{offering.id} is there already: its steps are bought as they are needed")
        parts = [self._offerings.on_sale(part, self._clock.now()).offering for part in offering.parts]
        check_deliverable(subscriber, (offering, *parts), live)

    def _parts(self, subscriber: Subscriber, sold: SoldOffering) -> list[tuple[SoldOffering, int]]:
        """A bundle's parts, each with its share of the bundle's price, by their own prices (IFRS 15.76); the last one has
        what rounding leaves.
        """
        parts = [self._offerings.on_sale(part, self._clock.now()) for part in sold.offering.parts]
        if not parts:
            return []
        left = price_for(self._connection, subscriber, sold.offering, self._clock.now())
        own = [parse_money(part.offering.price).amount_nano for part in parts]
        whole, total = left, sum(own)
        shares = []
        for part, price in zip(parts[:-1], own[:-1], strict=True):
            shares.append((part, share(whole, price, total)))
            left -= shares[-1][1]
        return [*shares, (parts[-1], left)]

    def _add_product(
        self,
        subscriber: Subscriber,
        order: Order,
        product_id: UUID,
        sold: SoldOffering,
        parent_id: UUID | None,
        delivery: str | None,
        price_nano: int | None,
    ) -> int:
        """Returns what was charged at once."""
        offering, now = sold.offering, self._clock.now()
        waits = offering.fulfilment is not None
        product = Product(
            product_id=product_id,
            order_id=order.order_id,
            offering_id=offering.id,
            offering_version=sold.offering_version,
            state="pendingActive" if waits else "active",
            renews=offering.cycle != "once",
            cycle_no=1,
            started_at=now,
            cycle_start=now,
            cycle_end=_cycle_end(offering, now, now),
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
        return self._activate(subscriber, product, sold)

    def _activate(self, subscriber: Subscriber, product: Product, sold: SoldOffering) -> int:
        amount = self._begin_cycle(subscriber, product, sold)
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

    def _begin_cycle(self, subscriber: Subscriber, product: Product, sold: SoldOffering) -> int:
        """Charge a cycle and open its buckets. A bundle is charged by its parts, pay-as-you-go by its steps."""
        offering = sold.offering
        if offering.kind in {"bundle", "pay_as_you_go"}:
            return 0
        price = product.price_nano
        if price is None:
            first = product.cycle_no == 1
            price = price_for(self._connection, subscriber, offering, product.cycle_start, first=first)
        return self._sell(
            subscriber,
            product,
            sold,
            kind="cycle",
            number=product.cycle_no,
            begin=product.cycle_start,
            price=price,
        ).amount_nano

    def _sell(
        self,
        subscriber: Subscriber,
        product: Product,
        sold: SoldOffering,
        *,
        kind: Literal["cycle", "change"],
        number: int,
        begin: datetime,
        price: int,
        part: tuple[int, int] = (1, 1),
    ) -> Charge:
        offering, end = sold.offering, product.cycle_end
        rollover = None
        if offering.rollover is not None and end is not None:
            until = _cycle_end(offering, product.started_at, end)
            assert until is not None
            rollover = (offering.rollover.quantity_max, until)
        return self._charges.sell(
            Sale(
                account_id=subscriber.account_id,
                subscriber_id=subscriber.subscriber_id,
                product_id=product.product_id,
                offering_version=sold.offering_version,
                rate_version=sold.rate_version,
                kind=kind,
                number=number,
                period_start=begin,
                period_end=end,
                description=offering.name,
                description_zh=offering.name_zh,
                price_nano=price,
                currency=offering.currency,
                vat_percent=offering.vat_percent,
                specs=offering.cycle_buckets(),
                recognise=offering.earned,
                share_num=part[0],
                share_den=part[1],
                rollover=rollover,
            )
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

    def work_orders(self, state: str | None = "open") -> list[WorkOrder]:
        """What other systems are asked for, oldest first."""
        return work_store.work_orders(self._vault, state, LIST_MAX)

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
        reason = _checked_reason(reason)
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
        if product.state != "pendingActive":
            return
        now, sold = self._clock.now(), self._offerings.sold(product.offering_version)
        product = replace(
            product,
            state="active",
            started_at=now,
            cycle_start=now,
            cycle_end=_cycle_end(sold.offering, now, now),
        )
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
        close. Nothing is paid back: a refund says so. Raises `ProductNotFound`, `ProductEnded`, `ChangeNotAllowed`.
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
            now = self._clock.now()
            order = Order(
                uuid7(), product_id, product.offering_id, product.offering_version, now, 0, "CNY", new=True, action="delete",
                state="completed" if when == "now" else "pending", completed_at=now if when == "now" else None,
            )  # fmt: skip
            store.add_order(self._connection, subscriber, order, idempotency_key)
            for part in [product_id, *store.parts_of(self._connection, product_id)]:
                found = store.lock_product(self._connection, part)
                assert found is not None
                if found[0].state not in LIVE:
                    continue
                if when == "now":
                    self._end(found[0], subscriber, "cancelled")
                else:
                    store.set_product(self._connection, part, ends_after_cycle=True, next_version=None)
        return order

    def _end(
        self, product: Product, subscriber: Subscriber, state: Literal["cancelled", "aborted", "expired"]
    ) -> None:
        now = self._clock.now()
        store.set_product(self._connection, product.product_id, state=state, ended_at=now)
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
            elif delivered is not None and delivered.state == "open":
                work_store.close_delivery(self._vault, delivered, "the order was cancelled", now)
                store.end_order(
                    self._connection, product.order_id, "cancelled", now, 0, "cancelled before delivery"
                )

    def change(
        self, product_id: UUID, offering_id: str, when: When = "now", idempotency_key: str | None = None
    ) -> Order:
        """Another plan for a product. With the cycle's end: from the next cycle on. Now: the new plan's price and quantity
        for the part of the cycle that is left, and a credit of the old plan's charge for the lesser of the part of its time
        and the part of its quantity that are left; granted quantity is waited for, until then the order is in progress.

        Raises `ChangeNotAllowed`, `NotEligible`, `OfferingNotActive`, `ProductEnded` and what `place` raises.
        """
        with self._connection.transaction():
            product, subscriber = self._lock(product_id)
            before = self._again(subscriber, product_id, idempotency_key, "modify", offering_id)
            if before is not None:
                return before
            check_live(product)
            if subscriber.state != "active" or subscriber.restricted:
                raise SubscriberNotActive("nothing can be changed: what is owed has to be paid first")
            if product.state != "active":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            now = self._clock.now()
            old, sold = (
                self._offerings.sold(product.offering_version),
                self._offerings.on_sale(offering_id, now),
            )
            if old.offering.kind != "plan" or sold.offering.kind != "plan" or product.parent_id is not None:
                raise ChangeNotAllowed("only a plan of its own can be changed, and to a plan")
            if old.offering.cycle != sold.offering.cycle:
                raise ChangeNotAllowed("the plans have different cycles: cancel the one, and order the other")
            if sold.offering_version == product.offering_version:
                raise ChangeNotAllowed(f"the product is {offering_id} at this version already")
            if store.waiting_orders(self._connection, product_id, "inProgress"):
                raise ChangeNotAllowed("a change of this product is in progress: wait until it is done")
            self._check_eligible(subscriber, beside_nothing(sold.offering))
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
            assert product.cycle_end is not None
            left_s = max(0, int((product.cycle_end - now).total_seconds()))
            length_s = max(1, int((product.cycle_end - product.cycle_start).total_seconds()))
            charges = self._charges.of_product(product_id)
            current = [c for c in charges if c.kind in {"cycle", "change"}][-1]
            # What rolled over from an earlier month was paid by that month's charge, and stays.
            self._ledger.withdraw_charge(subscriber.account_id, product_id, current.charge_id)
            self._ledger.withdraw_windows(subscriber.account_id, product_id)
            self._charges.stop(subscriber.account_id, product_id)
            changed = replace(product, offering_version=sold.offering_version, offering_id=offering_id)
            store.set_product(
                self._connection, product_id, offering_version=sold.offering_version, next_version=None, ends_after_cycle=False
            )  # fmt: skip
            price = price_for(self._connection, subscriber, sold.offering, now)
            number = sum(charge.kind == "change" for charge in charges) + 1
            made = self._sell(
                subscriber, changed, sold, kind="change", number=number, begin=now, price=price,
                part=(min(left_s, length_s), length_s),
            )  # fmt: skip
            self._open_windows(subscriber, changed, sold, now)
            span_s = length_s
            if current.period_end is not None:
                span_s = max(1, int((current.period_end - current.period_start).total_seconds()))
            store.set_asked(
                self._connection,
                order.order_id,
                {"charge_id": str(current.charge_id), "left_s": min(left_s, span_s), "length_s": span_s},
            )
            store.add_amount(self._connection, order.order_id, made.amount_nano)
            self._finish_change(order.order_id)
            found = store.order(self._connection, order.order_id)
            assert found is not None
        return replace(found[0], new=True)

    def _finish_change(self, order_id: UUID) -> bool:
        """Credit what a change took away, once nothing of it is granted any more. Whether that is so."""
        locked = store.lock_order(self._connection, order_id)
        if locked is None or locked[0] != "inProgress":
            return False
        charge = self._charges.find(UUID(locked[1]["charge_id"]))
        free, granted = self._charges.unused(charge)
        if granted:
            return False
        left_s, length_s = int(locked[1]["left_s"]), int(locked[1]["length_s"])
        left = charge.amount_nano - charge.credited_nano
        by_time = share(charge.amount_nano, left_s, length_s)
        by_quantity = share(charge.amount_nano, free, charge.quantity) if charge.quantity else by_time
        amount = min(left, by_time, by_quantity)
        if amount:
            self._charges.credit(
                charge,
                amount,
                "credit",
                f"{charge.description}: changed",
                f"{charge.description_zh}（变更退费）",
            )
        store.end_order(self._connection, order_id, "completed", self._clock.now(), -amount, None)
        return True

    def finish_changes(self) -> int:
        """Changes that waited for grants to close. Returns how many are done. Runs on many hosts at once."""
        done = 0
        for order_id in store.orders_in_change(self._connection, LIST_MAX):
            with self._connection.transaction():
                done += self._finish_change(order_id)
        return done

    def suspend(self, product_id: UUID) -> None:
        """Nothing more is spent of a product, and it does not renew. Raises `ChangeNotAllowed`."""
        with self._connection.transaction():
            product, subscriber = self._lock_live(product_id)
            if product.state != "active":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            store.set_product(self._connection, product_id, state="suspended", suspended_at=self._clock.now())
            self._ledger.set_paused(subscriber.account_id, product_id, paused=True)

    def resume(self, product_id: UUID) -> None:
        """Go on with a suspended product. Where its cycle has ended meanwhile, a new one begins now."""
        with self._connection.transaction():
            product, subscriber = self._lock_live(product_id)
            if product.state != "suspended":
                raise ChangeNotAllowed(f"product {product_id} is {product.state}")
            store.set_product(self._connection, product_id, state="active", suspended_at=None)
            self._ledger.set_paused(subscriber.account_id, product_id, paused=False)
            now = self._clock.now()
            if product.cycle_end is not None and product.cycle_end <= now:
                self._next_cycle(subscriber, replace(product, state="active"), begin=now)

    # The monthly cycle.

    def run_cycles(self) -> int:
        """Begin the next cycle of every product that is due, or expire it. Returns how many. Runs on many hosts at once."""
        total = 0
        while due := store.due_products(self._connection, self._clock.now(), CYCLE_BATCH):
            for product_id in due:
                with self._connection.transaction():
                    product, subscriber = self._lock(product_id)
                    if (
                        product.state != "active"
                        or product.cycle_end is None
                        or product.cycle_end > self._clock.now()
                    ):
                        continue
                    self._next_cycle(subscriber, product, begin=product.cycle_end)
                total += 1
        self._ledger.expire_due()
        self.finish_changes()
        return total

    def _next_cycle(self, subscriber: Subscriber, product: Product, *, begin: datetime) -> None:
        if not product.renews or product.ends_after_cycle:
            self._end(product, subscriber, "expired")
            return
        version = product.next_version or product.offering_version
        sold = self._offerings.sold(version)
        renewed = replace(
            product,
            offering_version=version,
            offering_id=sold.offering.id,
            cycle_no=product.cycle_no + 1,
            cycle_start=begin,
            cycle_end=_cycle_end(sold.offering, product.started_at, begin),
            next_version=None,
        )
        if version != product.offering_version:
            self._ledger.withdraw_windows(subscriber.account_id, product.product_id)
            self._open_windows(subscriber, renewed, sold, begin)
            for order_id in store.waiting_orders(self._connection, product.product_id, "pending"):
                store.end_order(self._connection, order_id, "completed", self._clock.now(), 0, None)
        store.set_product(
            self._connection, product.product_id, offering_version=version, cycle_no=renewed.cycle_no, cycle_start=begin,
            cycle_end=renewed.cycle_end, next_version=None,
        )  # fmt: skip
        self._begin_cycle(subscriber, renewed, sold)

    def withdraw(self, order_id: UUID, reason: str | None = None) -> None:
        """Take back an order that is not done: one that waits for a cycle's end, or for its delivery.

        Raises `OrderNotFound`, `ChangeNotAllowed`, `Invalid`.
        """
        reason = _checked_reason(reason)
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

    # Looking.

    def find(self, order_id: UUID) -> tuple[Order, UUID]:
        """An order and its subscriber's id. Raises `OrderNotFound`."""
        found = store.order(self._connection, order_id)
        if found is None:
            raise OrderNotFound(f"there is no order {order_id}: `tokenworks order list` shows them")
        return found

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = LIST_MAX
    ) -> tuple[list[Order], int]:
        """A page, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return store.orders(self._connection, subscriber_id, offset, min(limit, LIST_MAX))

    def product(self, product_id: UUID) -> tuple[Product, UUID]:
        """A product and its subscriber's id. Raises `ProductNotFound`."""
        found = store.product(self._connection, product_id)
        if found is None:
            raise ProductNotFound(f"there is no product {product_id}")
        return found

    def products(self, subscriber: Subscriber) -> list[Product]:
        """Oldest first."""
        return store.products(self._connection, subscriber.subscriber_id)


def _cycle_end(offering: Offering, started_at: datetime, cycle_start: datetime) -> datetime | None:
    """Of pay-as-you-go only the steps end."""
    if offering.kind == "pay_as_you_go":
        return None
    return cycle_end(offering.cycle, started_at, cycle_start, offering.validity_days)
