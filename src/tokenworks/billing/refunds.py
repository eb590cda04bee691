"""Refunds: the price of an order is given back, in whole or in part, by credits of its charges.

Invariant: what is given back of a charge is at most the charge, VAT included. The unused quantity is withdrawn first; if a part of it
is granted, the refund waits until the grant is closed. For a charge that is earned with time, the unused part is what is not earned
at the time of the request, whenever revenue was last recognised. For a charge that is earned with usage, it is the quantity that was
there at that time; what had expired or been withdrawn before is not part of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import refund_store
from tokenworks.billing.errors import RefundNotAllowed, RefundNotFound
from tokenworks.billing.model import Refund
from tokenworks.billing.open_items import OpenItems
from tokenworks.charging import Charge, Charges, FailedJobs, share
from tokenworks.kernel import Clock, Invalid, check_reason, uuid7
from tokenworks.subscriptions import (
    KeyReused,
    Orders,
    Product,
    Subscriber,
    Subscriptions,
    check_idempotency_key,
    unearned,
)

PENDING_MAX: Final = 1000
RefundPart = Literal["whole", "unused", "amount"]


class Refunds:
    """Refunds of orders, on one connection."""

    def __init__(
        self,
        connection: Connection,
        charges: Charges,
        orders: Orders,
        subscriptions: Subscriptions,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._charges = charges
        self._orders = orders
        self._subscriptions = subscriptions
        self._clock = clock
        self._open = OpenItems(connection, subscriptions, clock)
        self._failed = FailedJobs(connection, clock)

    def at_most(self, made: Sequence[Refund]) -> int:
        """What refunds give back in nano; a pending refund counts with its whole charge."""
        return sum(
            refund.amount_nano
            if refund.amount_nano is not None
            else self._charges.find(refund.account_id, refund.charge_id).amount_nano
            for refund in made
        )

    def refund(
        self,
        order_id: UUID,
        part: RefundPart,
        reason: str,
        *,
        amount_nano: int | None = None,
        idempotency_key: str | None = None,
        dry_run: bool = False,
    ) -> list[Refund]:
        """Give back the price of an order's last charges: all of it (`whole`), the unused part (`unused`), or an amount of the first
        charge (`amount`). The first two end the order's products; after the third they go on. The same idempotency key gives the same
        refunds. Raises `OrderNotFound`, `KeyReused`, `RefundNotAllowed`, `RefundTooMuch`, `Invalid`.
        """
        reason = check_reason(reason)
        check_idempotency_key(idempotency_key)
        if (part == "amount") != (amount_nano is not None) or (amount_nano is not None and amount_nano <= 0):
            raise Invalid("an amount above zero goes with part: amount")
        with self._connection.transaction(force_rollback=dry_run):
            order, subscriber_id = self._orders.find(order_id)
            self._subscriptions.lock([subscriber_id])
            subscriber = self._subscriptions.find(str(subscriber_id))
            if idempotency_key is not None:
                before = refund_store.refunds_of_key(self._connection, idempotency_key)
                if before:
                    first = before[0]
                    asked_nano = first.asked_nano if first.part == "amount" else None
                    if (first.order_id, first.part, asked_nano, first.reason) != (
                        order_id, part, amount_nano, reason
                    ):  # fmt: skip
                        raise KeyReused("the idempotency key was used for another refund: take another one")
                    return before
            for product in self._orders.products(subscriber):
                if product.order_id == order_id:
                    self._orders.catch_up(product.product_id)
            products = [p for p in self._orders.products(subscriber) if p.order_id == order_id]
            charges = [c for p in products for c in self._refundable(p)]
            if order.action != "add" or not charges:
                raise RefundNotAllowed(f"order {order_id} has nothing that could be refunded")
            if part == "amount":
                charges = charges[:1]
            made: list[Refund] = []
            for charge in charges:
                now, requested_nano, kept = self._clock.now(), amount_nano, None
                if part == "unused" and charge.quantity:
                    kept = self._charges.kept_quantity(charge)
                elif part == "unused":
                    unearned_share = unearned(charge.period_start, charge.period_end, now)
                    requested_nano = share(charge.amount_nano, unearned_share.num, unearned_share.den)
                refund_id = uuid7()
                refund = Refund(
                    refund_id, order_id, subscriber.account_id, charge.charge_id, part, requested_nano, reason, "pending", None, now, None,
                    made[0].batch_id if made else refund_id, kept,
                )  # fmt: skip
                if not refund_store.add_refund(self._connection, refund, None if made else idempotency_key):
                    raise RefundNotAllowed(f"order {order_id} is refunded already")
                made.append(refund)
            if part != "amount":
                for product in products:
                    if product.parent_id is None and product.state in {"active", "suspended"}:
                        self._orders.end(product.product_id)
            settled = [self._settle(refund) for refund in made]
            self._open.follow(subscriber_id)
        return settled

    def _refundable(self, product: Product) -> list[Charge]:
        """For a plan the charge of its last cycle, if it was charged; for pay-as-you-go every step with an unused quantity."""
        if product.charge_id is not None:
            return [self._charges.find_of_product(product.product_id, product.charge_id)]
        steps = [c for c in self._charges.of_product(product.product_id) if c.kind == "step"]
        return [c for c in steps if any(self._charges.unused(c)) and c.credited_nano < c.amount_nano]

    def _settle(self, refund: Refund) -> Refund:
        """Credit a refund, unless a part of the quantity that it takes back is granted."""
        charge = self._charges.find(refund.account_id, refund.charge_id)
        free, granted = self._charges.unused(charge, refund.kept)
        left = charge.amount_nano - charge.credited_nano
        if refund.part == "amount":
            assert refund.asked_nano is not None
            amount = refund.asked_nano
        elif refund.part == "unused" and refund.asked_nano is not None:
            amount = min(left, refund.asked_nano)
        elif granted:
            return refund
        elif refund.part == "whole":
            amount = left
        else:
            amount = min(left, share(charge.amount_nano, free, charge.quantity) if charge.quantity else 0)
        credit_id = None
        if amount:
            credit_id = self._charges.credit(
                charge, amount, "refund", f"{charge.description}: refund", f"{charge.description_zh}（退款）"
            ).charge_id
        now = self._clock.now()
        refund_store.end_refund(self._connection, refund.refund_id, credit_id, amount, now)
        if amount:
            _, subscriber_id = self._orders.find(refund.order_id)
            self._subscriptions.notify(
                subscriber_id, "refund.done", str(refund.refund_id), {"amount_nano": amount}
            )
        return replace(refund, state="done", amount_nano=amount, done_at=now)

    def finish(self) -> int:
        """Finish the refunds whose grants are closed. Returns how many. Several hosts may run this at once."""
        done = 0
        for refund_id in refund_store.pending_refunds(
            self._connection, self._failed.waiting("refund"), PENDING_MAX
        ):

            def finish(refund_id: UUID = refund_id) -> None:
                nonlocal done
                refund = refund_store.lock_pending_refund(self._connection, refund_id)
                done += refund is not None and self._settle(refund).state == "done"
                self._failed.done("refund", refund_id)

            self._failed.run("refund", refund_id, finish)
        return done

    def find(self, refund_id: UUID) -> Refund:
        """Raises `RefundNotFound`."""
        found = refund_store.refund_by_id(self._connection, refund_id)
        if found is None:
            raise RefundNotFound("there is no such refund")
        return found

    def forget(self, subscriber: Subscriber) -> None:
        """Erase the free text in the refunds of an erased subscriber."""
        refund_store.forget(self._connection, subscriber.account_id)

    def of_order(self, order_id: UUID) -> list[Refund]:
        """Oldest first."""
        return refund_store.refunds_of_order(self._connection, order_id)
