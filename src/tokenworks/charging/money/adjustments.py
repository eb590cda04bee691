"""Balances moved by hand: one person asks, another one decides.

Invariant: nobody decides what they asked for; what is taken is there; each is done at most once, by an entry.
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
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def ask(
        self, bucket_id: UUID, amount: int, reason: str, asked_by: str, idempotency_key: str | None = None
    ) -> Adjustment:
        """The same key again is the same adjustment. Raises `Invalid`, `AdjustmentNotAllowed` where the key was another's, and
        `AdjustmentNotFound` where there is no such balance.
        """
        reason = check_reason(reason)
        if not amount or abs(amount) > AMOUNT_MAX:
            raise Invalid("an adjustment adds or takes something")
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
        """The second person. Raises `AdjustmentNotFound`, `AdjustmentNotAllowed`."""
        with self._connection.transaction():
            found = adjustment_store.lock(self._connection, adjustment_id)
            if found is None or found.state != "asked":
                raise AdjustmentNotFound(f"no adjustment {adjustment_id} waits")
            if found.asked_by == decided_by:
                raise AdjustmentNotAllowed("another person has to decide")
            if do and not adjustment_store.apply(self._connection, found):
                raise AdjustmentNotAllowed(
                    "the bucket has less than that free, would hold more than can be counted, or has ended"
                )
            state: Literal["done", "refused"] = "done" if do else "refused"
            adjustment_store.decide(self._connection, adjustment_id, decided_by, state, self._clock.now())
            made = adjustment_store.lock(self._connection, adjustment_id)
            assert made is not None
        return made

    def find(self, adjustment_id: UUID) -> Adjustment:
        """Raises `AdjustmentNotFound`."""
        found = adjustment_store.find(self._connection, adjustment_id)
        if found is None:
            raise AdjustmentNotFound(f"there is no adjustment {adjustment_id}")
        return found

    def forget(self, account_id: UUID) -> None:
        """Of one who is erased: why it was adjusted, in free text."""
        adjustment_store.forget_reasons(self._connection, account_id)

    def all(self, account_id: UUID | None = None, limit: int = 1000) -> list[Adjustment]:
        """Newest first."""
        return adjustment_store.all_of(self._connection, account_id, limit)
