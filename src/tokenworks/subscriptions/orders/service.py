"""Orders and their products: the public service, whose work the modules beside it do.

Every step is one transaction: after a crash an order is as its last step left it, and no step is half done.
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
    told,
    waiting,
)
from tokenworks.subscriptions.orders.change import ChangeTiming
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.order_book import OrderBook
from tokenworks.subscriptions.orders.sales import Sales
from tokenworks.trust import PersonVault

CYCLE_BATCH: Final = 500


class Orders(OrderBook):
    """Places, changes, pauses, renews and ends orders and products, on one connection."""

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
        """Order an offering: make its products, their buckets and charges, in one transaction.

        A product that another system delivers becomes active, and is charged, when that system reports the delivery; until then
        the order is in progress. A repeated idempotency key returns the first order and does nothing. An offering that the
        subscriber has already needs `confirm`. `start`: a later day, or instant, at which the order begins; until then it has no
        charge and no product (`waiting`). Raises `OfferingNotFound`, `OfferingNotActive`, `NotEligible`, `ConsentNeeded`,
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
        """Withdraw an order that waits for its start, for the end of a cycle, or for its delivery.

        Raises `OrderNotFound`, `ChangeNotAllowed`, `Invalid`.
        """
        cancel.withdraw(self._context, order_id, reason)

    def cancel_orders_to_come(self, subscriber: Subscriber, reason: str) -> None:
        """Cancel the orders that wait for their start. In the caller's transaction, with the subscriber locked."""
        cancel.cancel_orders_to_come(self._context, subscriber, reason)

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
        """Take the answer of a delivering system: done, refused for now (`again`), or refused. A refused delivery fails the whole
        order: its charges are credited and its other deliveries withdrawn. Return the state of the work order.

        A repeated answer, and an answer to an earlier `attempt`, change nothing. A delivery that is reported done after its
        time-out, or after its order was cancelled, stays refused, and a work order to withdraw it is added. Raises
        `WorkOrderNotFound`, `WorkOrderAnswered`, `Invalid`.
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
        """Change a product to another plan. `cycle_end`: from the next cycle on. `now`: the proration policies of both plans say
        what the new one costs and brings for the rest of the cycle, and what of the old one is credited; where either is free
        until its next cycle, the change waits for that. The order is in progress until the grants of the old plan are closed.

        The checks of an order hold for a change, too. Raises `ChangeNotAllowed`, `NotEligible`, `OfferingNotActive`,
        `ProductEnded` and what `place` raises.
        """
        return change.plan(self._context, product_id, offering_id, when, idempotency_key, confirm=confirm)

    def cancel(
        self, product_id: UUID, when: ChangeTiming = "now", idempotency_key: str | None = None
    ) -> Order:
        """End a product now, or with its cycle. What is unused is withdrawn, from a bucket with open grants when these close.
        `now`: the offering's proration policy says what is credited; the order is in progress until the grants are closed. Raises
        `ProductNotFound`, `ProductEnded`, `ChangeNotAllowed`.
        """
        return cancel.cancel(self._context, product_id, when, idempotency_key)

    def end(self, product_id: UUID) -> None:
        """End a product and its parts now, without a credit: the caller books that. In the caller's transaction."""
        cancel.end(self._context, product_id)

    def give_back_at_most(self, order_id: UUID) -> bool:
        """For a quote, which is rolled back: credit an order that waits for open grants as if nothing of them was used. Return
        False if the order does not wait.
        """
        return order_credits.give_back_at_most(self._context, order_id)

    def finish_changes(self) -> int:
        """Complete the changes and cancellations whose grants are closed now. Return how many. Runs on many hosts at once."""
        return order_credits.finish(self._context)

    # Suspending and resuming.

    def suspend(self, product_id: UUID) -> None:
        """Pause a product: its buckets can't be spent from, and it does not renew. Raises `ChangeNotAllowed`."""
        pause.suspend(self._context, product_id)

    def resume(self, product_id: UUID) -> None:
        """Resume a suspended product. If its cycle has ended meanwhile, a new one begins now, for the rest of the month; the
        offering's proration policy says what it costs. Raises `ChangeNotAllowed`, `CreditLimitReached`.
        """
        pause.resume(self._context, product_id)

    def resume_cycles(self, subscriber: Subscriber) -> None:
        """After the last suspension that stops new cycles: begin the cycles that waited, and the products that were delivered
        meanwhile. A product whose cycle the credit limit does not allow is held. In the caller's transaction, with the subscriber
        locked.
        """
        pause.resume_cycles(self._context, subscriber)

    # The monthly cycle.

    def catch_up(self, product_id: UUID) -> None:
        """Begin the cycles of a product that are due, or end it, as the monthly job would. In the caller's transaction."""
        cycle.catch_up(self._context, product_id)

    def tell_balances(self) -> int:
        """Tell subscribers of plans that run low or are used up. Return how many marks were read. Runs on many hosts at once."""
        total = 0
        while read := told.tell_balances(self._context, CYCLE_BATCH):
            total += read
        return total

    def run_cycles(self) -> int:
        """Begin the orders whose start has come, and the next cycle of every product that is due, or expire the product. Return
        how many. Runs on many hosts at once.

        A job that raises does not stop the others: it is tried again later, and quarantined in the end (`FailedJobs`).
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
