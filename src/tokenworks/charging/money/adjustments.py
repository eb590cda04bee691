"""Manual adjustments of balances: one person requests an adjustment, another person approves or refuses it.

Invariant: the two persons are different; an adjustment never takes more than the bucket has; it is applied at most once, by one entry.
"""

from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.errors import AdjustmentNotAllowed, AdjustmentNotFound
from tokenworks.charging.money import adjustment_store
from tokenworks.charging.money.model import Adjustment
from tokenworks.kernel import Clock, Invalid, check_reason, uuid7

AMOUNT_MAX: Final = 10**15


class Adjustments:
    """The adjustments, on one database connection."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def ask(
        self, bucket_id: UUID, amount: int, reason: str, asked_by: str, idempotency_key: str | None = None
    ) -> Adjustment:
        """Request an adjustment. `amount`: in thousandths of the bucket's unit, negative to take away. A repeated idempotency key
        returns the first adjustment.

        Raises `Invalid`, `AdjustmentNotAllowed` if the key belongs to another adjustment, and `AdjustmentNotFound` if there is no
        such balance.
        """
        reason = check_reason(reason)
        if not amount or abs(amount) > AMOUNT_MAX:
            raise Invalid(f"an adjustment's amount is not zero, and at most {AMOUNT_MAX}")
        with self._connection.transaction():
            if idempotency_key is not None:
                before = adjustment_store.of_key(self._connection, idempotency_key)
                if before is not None:
                    if (before.bucket_id, before.amount) != (bucket_id, amount):
                        raise AdjustmentNotAllowed("the idempotency key was used for another adjustment")
                    return before
            found = adjustment_store.balance(self._connection, bucket_id)
            if found is None:
                raise AdjustmentNotFound(f"there is no balance {bucket_id} that could be adjusted")
            adjustment = Adjustment(
                uuid7(), found[0], bucket_id, amount, found[1], reason, asked_by, self._clock.now(), None, None, "asked"
            )  # fmt: skip
            adjustment_store.add(self._connection, adjustment, idempotency_key)
        return adjustment

    def decide(self, adjustment_id: UUID, decided_by: str, *, do: bool) -> Adjustment:
        """Apply (`do`) or refuse an adjustment, as the second person. Raises `AdjustmentNotFound`, `AdjustmentNotAllowed`."""
        with self._connection.transaction():
            found = adjustment_store.lock(self._connection, adjustment_id)
            if found is None or found.state != "asked":
                raise AdjustmentNotFound(f"no adjustment {adjustment_id} waits for a decision")
            if found.asked_by == decided_by:
                raise AdjustmentNotAllowed("another person has to decide")
            if do and not adjustment_store.apply(self._connection, found):
                raise AdjustmentNotAllowed(
                    "the bucket has less than that free, would hold more than can be counted, or has ended"
                )
            state: Literal["done", "refused"] = "done" if do else "refused"
            adjustment_store.decide(self._connection, adjustment_id, decided_by, state, self._clock.now())
            decided = adjustment_store.lock(self._connection, adjustment_id)
            assert decided is not None
        return decided

    def find(self, adjustment_id: UUID) -> Adjustment:
        """Raises `AdjustmentNotFound`."""
        found = adjustment_store.find(self._connection, adjustment_id)
        if found is None:
            raise AdjustmentNotFound(f"there is no adjustment {adjustment_id}")
        return found

    def forget(self, account_id: UUID) -> None:
        """Erase the reasons (free text) of the adjustments of an erased subscriber's account."""
        adjustment_store.forget_reasons(self._connection, account_id)

    def all(self, account_id: UUID | None = None, limit: int = 1000) -> list[Adjustment]:
        """The adjustments of an account, or of all accounts, newest first."""
        return adjustment_store.all_of(self._connection, account_id, limit)
