"""What is open on bills, stored with them: every reader uses `Bill.remaining_nano`, and only this module writes it.

The rule is `model.open_amounts`. It is applied to a subscriber's bills in the transaction of each payment, credit, reversal and payout.
Dunning follows what is open.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import dunning_store, open_store
from tokenworks.billing.model import open_amounts
from tokenworks.kernel import Clock
from tokenworks.subscriptions import Subscriptions

SETTLE_BATCH: Final = 2000


class OpenItems:
    """On one connection, in the caller's transaction, which has locked the subscribers' accounts."""

    def __init__(self, connection: Connection, subscriptions: Subscriptions, clock: Clock) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self._clock = clock

    def settle(self, subscriber_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Write what is open on every bill of these subscribers. Returns, for each subscriber with bills, its free credit in nano; it is
        below zero if a payout exceeds the credit that is left.
        """
        free: dict[UUID, int] = {}
        ids = sorted(set(subscriber_ids))
        for first in range(0, len(ids), SETTLE_BATCH):
            batch = ids[first : first + SETTLE_BATCH]
            beside = open_store.beside_bills(self._connection, batch)
            changed: list[tuple[UUID, int, str]] = []
            for subscriber_id, found in groupby(
                open_store.settlements(self._connection, batch), key=lambda row: row[0]
            ):
                rows = list(found)
                left, free[subscriber_id] = open_amounts(
                    [(bill_id, own) for _, bill_id, _, own, *_ in rows], beside.get(subscriber_id, 0)
                )
                for _, bill_id, billed, _, kept_nano, kept_state, is_sent in rows:
                    state = _state(left[bill_id], billed, is_sent=is_sent)
                    if (kept_nano, kept_state) != (left[bill_id], state):
                        changed.append((bill_id, left[bill_id], state))
            if changed:
                open_store.set_open(self._connection, changed, self._clock.now())
        return free

    def follow(self, subscriber_id: UUID) -> None:
        """End dunning for bills on which nothing is open, and put it back in force for bills that are open again. The caller has locked
        the subscriber, before its account.
        """
        steps = dunning_store.follow_dunning(self._connection, subscriber_id, self._clock.now())
        if steps is None:
            return
        subscriber = self._subscriptions.find(str(subscriber_id))
        if subscriber.state == "closed":
            return
        self._subscriptions.set_dunned(
            subscriber, restricted=bool(steps & {"restrict", "suspend"}), suspended="suspend" in steps
        )


def _state(open_nano: int, billed_nano: int, *, is_sent: bool) -> str:
    if not open_nano:
        return "settled"
    if open_nano < billed_nano:
        return "partiallyPaid"
    return "sent" if is_sent else "new"
