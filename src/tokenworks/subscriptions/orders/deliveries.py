"""Work orders on their way to the delivering system: pushed, repeated until the system answers, timed out.

A work order can be pushed more than once: the push has its id, and a repeated answer changes nothing. A delivery without an
answer fails at its time-out, as a refused one does, and is withdrawn, since the system may have delivered.
"""

import contextlib
from collections.abc import Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock
from tokenworks.subscriptions.errors import WorkOrderAnswered, WorkOrderNotFound
from tokenworks.subscriptions.model import WorkOrder
from tokenworks.subscriptions.orders import work_store
from tokenworks.subscriptions.orders.service import Orders
from tokenworks.trust import PersonVault

LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
# A work order that has arrived and is not answered is pushed again: the receiver may have lost it.
REPEAT_EVERY: Final = timedelta(hours=6)
TIME_OUT_BATCH: Final = 500
LIST_MAX: Final = 1000
NO_ANSWER: Final = "the delivering system did not answer in time"


class Deliveries:
    """Leases, marks and times out work orders, on one connection."""

    def __init__(self, connection: Connection, orders: Orders, clock: Clock, vault: PersonVault) -> None:
        self._connection = connection
        self._vault = vault
        self._orders = orders
        self._clock = clock

    def find(self, work_order_id: UUID) -> WorkOrder:
        """Raises `WorkOrderNotFound`."""
        found = work_store.work_order(self._vault, work_order_id)
        if found is None:
            raise WorkOrderNotFound(f"there is no work order {work_order_id}: tokenworks order work list")
        return found

    def page(self, state: str | None, offset: int, limit: int) -> tuple[list[WorkOrder], int]:
        """A page of work orders, oldest first, and the number of all of them."""
        return work_store.work_orders_page(self._vault, state, offset, min(limit, LIST_MAX))

    def lease(self, ports: Collection[str], limit: int) -> list[WorkOrder]:
        """Lease the work orders that are due for the systems behind these ports: no other process pushes them for a minute."""
        now = self._clock.now()
        return work_store.lease_work_orders(self._vault, list(ports), now, now + LEASE, limit)

    def mark_pushed(self, work: WorkOrder) -> None:
        """Mark a work order as arrived; it is pushed again after `REPEAT_EVERY` if it has no answer then."""
        now = self._clock.now()
        work_store.mark_pushed(self._connection, work.work_order_id, now, now + REPEAT_EVERY)

    def postpone(self, work: WorkOrder) -> None:
        """Make a work order that was not tried due again at once."""
        work_store.set_next_push(self._connection, work.work_order_id, self._clock.now(), None)

    def mark_push_failed(self, work: WorkOrder, error: str) -> None:
        """Mark a failed push; the next one follows after a growing wait, for as long as the work order is open."""
        wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(work.push_tries, 20))
        work_store.set_next_push(self._connection, work.work_order_id, self._clock.now() + wait, error[:200])

    def time_out(self, after: timedelta) -> int:
        """Fail the deliveries that have had no answer for this long. Return how many. Runs on many hosts at once."""
        due = work_store.unanswered(self._connection, self._clock.now() - after, TIME_OUT_BATCH)
        failed = 0
        for work_order_id in due:
            with contextlib.suppress(WorkOrderAnswered):  # the answer came after the query
                self._orders.answer(work_order_id, done=False, reason=NO_ANSWER, timed_out=True)
                failed += 1
        return failed
