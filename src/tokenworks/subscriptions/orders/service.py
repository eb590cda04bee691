"""Orders and what they leave in the inventory: the public door to what its modules do with them.

Every step is one transaction: after a crash an order is where its last step left it, and nothing is half done.
"""

from datetime import date
from functools import partial
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offerings
from tokenworks.charging import Charges, FailedJobs, Ledger
from tokenworks.kernel import Clock
from tokenworks.subscriptions.model import Order, PrivacyRules, Subscriber
from tokenworks.subscriptions.orders import (
    cancel,
    change,
    cycle,
    deliver,
    order_credits,
    pause,
    place,
    product_store,
    waiting,
)
from tokenworks.subscriptions.orders.change import ChangeTiming
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.order_book import OrderBook
from tokenworks.subscriptions.orders.sales import Sales
from tokenworks.trust import PersonVault

CYCLE_BATCH: Final = 500


class Orders(OrderBook):
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: Connection,
        offerings: Offerings,
        ledger: Ledger,
        charges: Charges,
        clock: Clock,
        vault: PersonVault,
        rules: PrivacyRules,
    ) -> None:
        super().__init__(connection, vault)
        self._context = Context(
            connection=connection,
            vault=vault,
            rules=rules,
            offerings=offerings,
            ledger=ledger,
            charges=charges,
            clock=clock,
            sales=Sales(connection, offerings, ledger, charges, clock),
            failed=FailedJobs(connection, clock),
        )

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
        return place.order(
            self._context,
            subscriber,
            offering_id,
            idempotency_key,
            delivery=delivery,
            confirm=confirm,
            start=start,
        )

    def withdraw(self, order_id: UUID, reason: str | None = None) -> None:
        """Take back an order that is not done: one that waits for its start, for a cycle's end, or for its delivery.

        Raises `OrderNotFound`, `ChangeNotAllowed`, `Invalid`.
        """
        cancel.withdraw(self._context, order_id, reason)

    def drop_to_come(self, subscriber: Subscriber, reason: str) -> None:
        """Cancel what waits for its start. In the caller's transaction, the subscriber locked."""
        cancel.drop_to_come(self._context, subscriber, reason)

    # Delivery by another system.

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
        return deliver.answer(
            self._context,
            work_order_id,
            done=done,
            reason=reason,
            again=again,
            attempt=attempt,
            timed_out=timed_out,
        )

    # Changing and ending.

    def change(
        self,
        product_id: UUID,
        offering_id: str,
        when: ChangeTiming = "now",
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
        return change.plan(self._context, product_id, offering_id, when, idempotency_key, confirm=confirm)

    def cancel(
        self, product_id: UUID, when: ChangeTiming = "now", idempotency_key: str | None = None
    ) -> Order:
        """End a product now, or with its cycle. What is unused is withdrawn; buckets with open grants follow when these
        close. Now: what comes back says the offering's proration policy, and waits for open grants; until then the order is in
        progress. Raises `ProductNotFound`, `ProductEnded`, `ChangeNotAllowed`.
        """
        return cancel.cancel(self._context, product_id, when, idempotency_key)

    def end(self, product_id: UUID) -> None:
        """End a product and its parts now, and give nothing back: the caller does. In the caller's transaction."""
        cancel.end(self._context, product_id)

    def give_back_at_most(self, order_id: UUID) -> bool:
        """Credit what a change or a cancellation waits for, as if nothing that is granted was used: for a quote, which is rolled
        back. Whether it waited.
        """
        return order_credits.give_back_at_most(self._context, order_id)

    def finish_changes(self) -> int:
        """Changes and cancellations that waited for grants to close. Returns how many are done. Runs on many hosts at once."""
        return order_credits.finish(self._context)

    # Suspending and resuming.

    def suspend(self, product_id: UUID) -> None:
        """Nothing more is spent of a product, and it does not renew. Raises `ChangeNotAllowed`."""
        pause.suspend(self._context, product_id)

    def resume(self, product_id: UUID) -> None:
        """Go on with a suspended product. Where its cycle has ended meanwhile, one begins now, for the rest of the month: what
        that costs says the offering's proration policy.
        """
        pause.resume(self._context, product_id)

    def go_on(self, subscriber: Subscriber) -> None:
        """No suspension of the subscriber stops new cycles any more: those that waited begin now, and so does what was delivered
        meanwhile; where the credit limit does not allow a cycle, its product is suspended. In the caller's transaction, the
        subscriber locked.
        """
        pause.go_on(self._context, subscriber)

    # The monthly cycle.

    def catch_up(self, product_id: UUID) -> None:
        """Begin the cycles of a product that are due, or end it, before it is looked at. In the caller's transaction."""
        cycle.catch_up(self._context, product_id)

    def run_cycles(self) -> int:
        """Begin the next cycle of every product that is due, or expire it. Returns how many. Runs on many hosts at once.

        One that raises keeps no other from its turn: it is tried again later, and in the end put in quarantine (`FailedJobs`).
        """
        context = self._context
        total = waiting.run_starts(context) + waiting.release_held(context)
        while due := product_store.due_products(
            context.connection, context.clock.now(), context.failed.waiting("cycle"), CYCLE_BATCH
        ):
            for product_id in due:
                total += context.failed.run("cycle", product_id, partial(cycle.renew, context, product_id))
        context.ledger.expire_due()
        self.finish_changes()
        return total
