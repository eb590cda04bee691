"""What begins by itself when its time or its room has come: orders for later, and products that the credit limit holds back."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from tokenworks.catalog import Offerings, SoldOffering
from tokenworks.charging import Charges, CreditLimitReached, FailedJobs
from tokenworks.kernel import Clock, Conflict, Invalid, NotFound, Refused
from tokenworks.subscriptions.model import Order, PrivacyRules, Product, Subscriber
from tokenworks.subscriptions.orders import store
from tokenworks.subscriptions.orders.eligibility import check_eligible, check_may_buy
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault

BATCH: Final = 500
REASON_CHARS_MAX: Final = 200


class Waiting:
    """On one connection. `begin`, `lock` and `resume` are what `Orders` does with any order and product."""

    def __init__(
        self,
        connection: store.Connection,
        vault: PersonVault,
        offerings: Offerings,
        charges: Charges,
        clock: Clock,
        rules: PrivacyRules,
        begin: Callable[[Subscriber, Order, SoldOffering, str | None, datetime], object],
        lock: Callable[[UUID], tuple[Product, Subscriber]],
        resume: Callable[[Subscriber, Product], None],
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._offerings = offerings
        self._charges = charges
        self._clock = clock
        self._rules = rules
        self._begin = begin
        self._lock = lock
        self._resume = resume
        self._failed = FailedJobs(connection, clock)

    def run_starts(self) -> int:
        """Place the orders whose start has come. Returns how many were done. Runs on many hosts at once."""
        total = 0
        while due := store.due_starts(
            self._connection, self._clock.now(), self._failed.waiting("start"), BATCH
        ):
            for order_id in due:
                total += self._failed.run("start", order_id, partial(self._start, order_id))
        return total

    def release_held(self) -> int:
        """Go on with products that the credit limit holds back, where there is room again. Returns how many went on. Runs on
        many hosts at once.
        """
        total, after = 0, UUID(int=0)
        while held := store.held_products(self._connection, after, self._failed.waiting("cycle"), BATCH):
            for product_id in held:
                done: list[UUID] = []
                if self._failed.run("cycle", product_id, partial(self._release, product_id, done)):
                    total += len(done)
            after = held[-1]
        return total

    def _release(self, product_id: UUID, done: list[UUID]) -> None:
        product, subscriber = self._lock(product_id)
        self._failed.done("cycle", product_id)
        if not product.held or product.state != "suspended" or not subscriber.begins_cycles:
            return
        limit = subscriber.credit_limit_nano
        if limit is not None and self._charges.receivable(subscriber.account_id) > limit:
            return
        try:
            with self._connection.transaction():
                self._resume(subscriber, product)
        except CreditLimitReached:
            return
        done.append(product_id)
        now_is, _ = self._lock(product_id)
        if now_is.state == "active":
            offering = self._offerings.sold(now_is.offering_version).offering
            store.add_notification(
                self._connection, subscriber.subscriber_id, "credit_limit.released", f"{product_id}:{now_is.cycle_no}",
                {"offering": offering.id, "name": offering.name, "name_zh": offering.name_zh}, self._clock.now(),
            )  # fmt: skip

    def _start(self, order_id: UUID) -> None:
        """Place an order whose start has come, at the version that was ordered, by the rules of any order; what is refused now
        ends it as failed, charges nothing, and is told.
        """
        _, subscriber_id = self._order(order_id)
        known = people_store.lock_subscriber(self._vault, subscriber_id)
        order, _ = self._order(order_id)
        assert known is not None and order.starts_at is not None
        if order.state == "acknowledged":
            sold = self._offerings.sold(order.offering_version)
            try:
                with self._connection.transaction():
                    self._start_now(known, order, sold, order.starts_at)
            except (Conflict, Refused, NotFound, Invalid) as why:
                now, reason = self._clock.now(), str(why)[:REASON_CHARS_MAX]
                store.end_order(self._connection, order_id, "failed", now, 0, reason)
                store.add_notification(
                    self._connection, subscriber_id, "order.failed", str(order_id),
                    {"name": sold.offering.name, "name_zh": sold.offering.name_zh, "at": order.starts_at.isoformat(),
                     "offering": order.offering_id, "reason": reason}, now,
                )  # fmt: skip
        self._failed.done("start", order_id)

    def _start_now(self, known: Subscriber, order: Order, sold: SoldOffering, starts_at: datetime) -> None:
        check_may_buy(known, "nothing can be ordered")
        check_eligible(
            self._connection, self._offerings, self._rules, known, sold.offering, confirm=True,
            ordered_at=order.ordered_at,
        )  # fmt: skip
        # As if the job had run in time, but for time that a suspension has stopped.
        stopped = store.was_stopped_since(self._connection, known.subscriber_id, starts_at)
        self._begin(known, order, sold, order.delivery, self._clock.now() if stopped else starts_at)

    def _order(self, order_id: UUID) -> tuple[Order, UUID]:
        found = store.order(self._connection, order_id)
        assert found is not None
        return found
