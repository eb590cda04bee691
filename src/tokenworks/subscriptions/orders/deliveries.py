"""Work orders on their way to the delivering system: pushed, repeated until it answers, timed out.

What is pushed can be pushed again: it has the work order's id, and a second answer that says the same changes nothing. A delivery
that nobody answers fails when its time is over, as a refused one does, and is withdrawn, since it may have been done after all.
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
# What has arrived and is not answered is sent again: it may have been lost there.
REPEAT_EVERY: Final = timedelta(hours=6)
TIME_OUT_BATCH: Final = 500
LIST_MAX: Final = 1000
NO_ANSWER: Final = "the delivering system did not answer in time"


class Deliveries:
    """On one connection, with the orders whose deliveries they are."""

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
        """Oldest first, and how many there are."""
        return work_store.work_orders_page(self._vault, state, offset, min(limit, LIST_MAX))

    def lease(self, ports: Collection[str], limit: int) -> list[WorkOrder]:
        """What is due for the systems behind some ports; nobody else sends it within a minute."""
        now = self._clock.now()
        return work_store.lease_work_orders(self._vault, list(ports), now, now + LEASE, limit)

    def pushed(self, work: WorkOrder) -> None:
        """It has arrived: sent again in some hours, if it is not answered by then."""
        now = self._clock.now()
        work_store.pushed(self._connection, work.work_order_id, now, now + REPEAT_EVERY)

    def later(self, work: WorkOrder) -> None:
        """It was not tried: due again at once."""
        work_store.not_pushed(self._connection, work.work_order_id, self._clock.now(), None)

    def not_pushed(self, work: WorkOrder, error: str) -> None:
        """Again later, with growing waits, for as long as it is open."""
        wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(work.push_tries, 20))
        work_store.not_pushed(self._connection, work.work_order_id, self._clock.now() + wait, error[:200])

    def time_out(self, after: timedelta) -> int:
        """Fail the deliveries that nobody has answered for so long. Returns how many. Runs on many hosts at once."""
        due = work_store.unanswered(self._connection, self._clock.now() - after, TIME_OUT_BATCH)
        failed = 0
        for work_order_id in due:
            with contextlib.suppress(WorkOrderAnswered):  # at the last moment
                self._orders.answer(work_order_id, done=False, reason=NO_ANSWER, timed_out=True)
                failed += 1
        return failed
