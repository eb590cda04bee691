"""Transfers between members of one account: a part of one member's cap moves to another member's cap, for the current period.

Invariant: one transaction decreases one cap and increases another cap of the same account by the same amount. Only quantity that is
unused and granted to no host moves, so both caps hold while requests run. The balance of the pool does not change.
"""

from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.errors import TransferNotAllowed, TransferNotFound
from tokenworks.charging.ledger import bucket_store, cap_store, recall_store
from tokenworks.charging.ledger.model import BalanceMove, Transfer
from tokenworks.charging.model import PER_UNIT
from tokenworks.kernel import Clock, Invalid, check_reason, uuid7

LIST_MAX: Final = 1000


class Transfers:
    """The transfers, on one connection (autocommit). A method runs in the caller's transaction if there is one."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def of_key(self, account_id: UUID, idempotency_key: str) -> Transfer | None:
        return cap_store.of_key(self._connection, account_id, idempotency_key)

    def move(
        self,
        account_id: UUID,
        giver: tuple[UUID, UUID],
        taker: tuple[UUID, UUID],
        tokens: int,
        reason: str,
        made_by: str,
        idempotency_key: str,
    ) -> Transfer:
        """Move tokens from one cap to another. `giver` and `taker` are (member, bucket of the member's cap). A repeated idempotency key
        returns the first transfer.

        Raises `Invalid`, and `TransferNotAllowed` if less is free. In that case hosts are asked to return what no request holds, so
        that a retry can succeed.
        """
        reason = check_reason(reason)
        if tokens <= 0:
            raise Invalid("a transfer moves at least one token")
        if giver == taker:
            raise Invalid("a transfer goes to another member")
        amount = tokens * PER_UNIT
        with self._connection.transaction():
            # The idempotency key is read under the caps' lock: a retry after a lost reply finds the committed transfer.
            free = cap_store.lock_caps(self._connection, account_id, [giver[1], taker[1]])
            before = cap_store.of_key(self._connection, account_id, idempotency_key)
            if before is not None:
                if (before.from_member_id, before.to_member_id, before.amount) != (
                    giver[0],
                    taker[0],
                    amount,
                ):
                    raise TransferNotAllowed("the idempotency key was used for another transfer")
                return before
            if len(free) != 2:
                raise TransferNotAllowed("a cap's period has just ended: try again")
            if free[giver[1]] >= amount:
                made = Transfer(
                    uuid7(), account_id, giver[1], taker[1], giver[0], taker[0], amount, reason, made_by,
                    self._clock.now(),
                )  # fmt: skip
                cap_store.move(self._connection, made, idempotency_key)
                return made
        left = free[giver[1]] // PER_UNIT
        if any(
            b.bucket_id == giver[1] and b.left >= amount
            for b in bucket_store.buckets(self._connection, account_id)
        ):
            recall_store.request_recall(self._connection, account_id, recall_store.NO_HOST)
            raise TransferNotAllowed(
                f"{left} tokens of the cap are free at this moment, since requests are in flight: try again in a second"
            )
        raise TransferNotAllowed(f"the cap has {left} tokens left in its period")

    def forget(self, account_id: UUID) -> None:
        """Erase the reasons that members of an erased subscriber's account gave for transfers."""
        cap_store.forget_reasons(self._connection, account_id)

    def forget_of_member(self, account_id: UUID, member_id: UUID) -> None:
        """Erase the reasons of transfers from and to an erased member."""
        cap_store.forget_reasons(self._connection, account_id, member_id)

    def find(self, transfer_id: UUID) -> Transfer:
        """Raises `TransferNotFound`."""
        found = cap_store.find(self._connection, transfer_id)
        if found is None:
            raise TransferNotFound("there is no such transfer")
        return found

    def of_account(self, account_id: UUID) -> list[Transfer]:
        """The transfers of an account, newest first."""
        return cap_store.of_account(self._connection, account_id, LIST_MAX)

    def find_move(self, account_id: UUID, move_id: UUID, bucket_id: UUID) -> BalanceMove:
        """One move of an account's history. Raises `TransferNotFound`."""
        found = cap_store.find_move(self._connection, account_id, move_id, bucket_id)
        if found is None:
            raise TransferNotFound("there is no such move of the balance")
        return found

    def history(self, account_id: UUID, offset: int, limit: int) -> tuple[list[BalanceMove], int]:
        """The moves of an account's balances that are no usage: (a page, newest first; the count of all)."""
        return cap_store.moves(self._connection, account_id, offset, limit)
