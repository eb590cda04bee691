"""Refunds: what an order cost is given back, in whole or in part, by credits for the next bill.

Invariant: what is given back of a charge is at most the charge; what nobody used is taken back first, and where something of
it is still granted, the refund waits until that is closed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal
from uuid import UUID

from tokenworks.billing import store
from tokenworks.billing.errors import RefundNotAllowed
from tokenworks.billing.model import Refund
from tokenworks.charging import Charge, Charges, share
from tokenworks.kernel import Clock, Invalid, check_reason, uuid7
from tokenworks.subscriptions import Orders, Subscriptions, check_idempotency_key

PENDING_MAX: Final = 1000
Part = Literal["whole", "unused", "amount"]


class Refunds:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: store.Connection,
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

    def at_most(self, made: Sequence[Refund]) -> int:
        """What refunds give back, or, of those that wait, all that they may."""
        return sum(
            refund.amount_nano
            if refund.amount_nano is not None
            else self._charges.find(refund.charge_id).amount_nano
            for refund in made
        )

    def refund(
        self,
        order_id: UUID,
        part: Part,
        reason: str,
        *,
        amount_nano: int | None = None,
        idempotency_key: str | None = None,
        dry_run: bool = False,
    ) -> list[Refund]:
        """Give back what an order's last charges cost: all of it (`whole`), what was not used (`unused`), or an amount of the
        first of them, with which the product goes on. The first two end the order's products. The same key again gives the
        same refunds. Raises `OrderNotFound`, `RefundNotAllowed`, `RefundTooMuch`, `Invalid`.
        """
        reason = check_reason(reason)
        check_idempotency_key(idempotency_key)
        if (part == "amount") != (amount_nano is not None) or (amount_nano is not None and amount_nano <= 0):
            raise Invalid("an amount above zero goes with part: amount")
        with self._connection.transaction(force_rollback=dry_run):
            order, subscriber_id = self._orders.find(order_id)
            subscriber = self._subscriptions.find(str(subscriber_id))
            if idempotency_key is not None:
                before = store.refunds_of_key(self._connection, order_id, idempotency_key)
                if before:
                    return before
            products = [p for p in self._orders.products(subscriber) if p.order_id == order_id]
            charges = [c for p in products for c in self._refundable(p.product_id)]
            if order.action != "add" or not charges:
                raise RefundNotAllowed(f"order {order_id} has nothing that could be refunded")
            if part == "amount":
                charges = charges[:1]
            made = []
            for at, charge in enumerate(charges):
                key = idempotency_key if at == 0 or idempotency_key is None else f"{idempotency_key}#{at}"
                refund = Refund(
                    uuid7(), order_id, subscriber.account_id, charge.charge_id, part, amount_nano, reason, "pending", None,
                    self._clock.now(), None,
                )  # fmt: skip
                if not store.add_refund(self._connection, refund, key):
                    raise RefundNotAllowed(f"order {order_id} is refunded already")
                made.append(refund)
            if part != "amount":
                for product in products:
                    if product.parent_id is None and product.state in {"active", "suspended"}:
                        self._orders.cancel(product.product_id)
            return [self._settle(refund) for refund in made]

    def _refundable(self, product_id: UUID) -> list[Charge]:
        """A plan's last charge; of pay-as-you-go every step of which something is left."""
        found = [c for c in self._charges.of_product(product_id) if c.amount_nano > 0]
        steps = [c for c in found if c.kind == "step"]
        if steps:
            return [c for c in steps if sum(self._charges.unused(c)) and c.credited_nano < c.amount_nano]
        return [c for c in found if c.kind in {"cycle", "change"}][-1:]

    def _settle(self, refund: Refund) -> Refund:
        """Credit it, unless something is still granted of what it takes back."""
        charge = self._charges.find(refund.charge_id)
        free, granted = self._charges.unused(charge)
        left = charge.amount_nano - charge.credited_nano
        if refund.part == "amount":
            assert refund.asked_nano is not None
            amount = refund.asked_nano
        elif granted:
            return refund
        elif refund.part == "whole":
            amount = left
        else:
            amount = min(
                left,
                share(charge.amount_nano, free, charge.quantity) if charge.quantity else charge.owed_nano,
            )
        credit_id = None
        if amount:
            credit_id = self._charges.credit(
                charge, amount, "refund", f"{charge.description}: refund", f"{charge.description_zh}（退款）"
            ).charge_id
        now = self._clock.now()
        store.end_refund(self._connection, refund.refund_id, credit_id, amount, now)
        return replace(refund, state="done", amount_nano=amount, done_at=now)

    def finish(self) -> int:
        """Refunds that waited for grants to close. Returns how many are done. Runs on many hosts at once."""
        done = 0
        for refund_id in store.pending_refunds(self._connection, PENDING_MAX):
            with self._connection.transaction():
                refund = store.lock_pending_refund(self._connection, refund_id)
                done += refund is not None and self._settle(refund).state == "done"
        return done

    def of_order(self, order_id: UUID) -> list[Refund]:
        """Oldest first."""
        return store.refunds_of_order(self._connection, order_id)
