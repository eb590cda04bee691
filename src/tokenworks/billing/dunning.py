"""Dunning: the steps that are taken for unpaid bills, and their end when nothing is open any more."""

from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import bill_store, charge_file_store, dunning_store
from tokenworks.billing.model import DUNNING_STEPS, DunningPlan, DunningStep
from tokenworks.billing.open_items import OpenItems
from tokenworks.charging import Charges
from tokenworks.kernel import Clock
from tokenworks.subscriptions import Subscriptions

DUNNING_BATCH: Final = 500


class Dunning:
    """On one connection. `plan`: when each step is taken; None: the default plan."""

    def __init__(
        self,
        connection: Connection,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        plan: DunningPlan | None = None,
    ) -> None:
        self._connection = connection
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._plan = plan or DunningPlan()
        self._open = OpenItems(connection, subscriptions, clock)

    def run_dunning(self) -> dict[DunningStep, int]:
        """Take the steps that are due for unpaid bills. Returns how many of each. Several hosts may run this at once."""
        self._end_dunning()
        taken: dict[DunningStep, int] = {}
        for step in DUNNING_STEPS:
            before = self._plan.due_before(step, self._clock.now())
            while before is not None:
                found = dunning_store.overdue(self._connection, before, step, DUNNING_BATCH)
                for bill_id, subscriber_id in found:
                    taken[step] = taken.get(step, 0) + self._step(bill_id, subscriber_id, step)
                if len(found) < DUNNING_BATCH:
                    break
        return taken

    def _step(self, bill_id: UUID, subscriber_id: UUID, step: DunningStep) -> int:
        with self._connection.transaction():
            self._subscriptions.lock([subscriber_id])
            subscriber = self._subscriptions.find(str(subscriber_id))
            self._charges.lock_accounts([subscriber.account_id])
            bill = bill_store.find_bill(self._connection, bill_id, lock=True)
            if bill is None or not bill.remaining_nano or subscriber.state == "closed":
                return 0
            if charge_file_store.is_sent(self._connection, bill_id):
                return 0  # the carrier may have collected the bill: its answer comes first
            if not dunning_store.add_dunning(
                self._connection, bill_id, step, subscriber_id, self._clock.now()
            ):
                return 0
            if step == "restrict":
                suspended = "payment" in subscriber.suspended_by
                self._subscriptions.set_dunned(subscriber, restricted=True, suspended=suspended)
            elif step == "suspend":
                self._subscriptions.set_dunned(subscriber, restricted=True, suspended=True)
            elif step == "close":
                self._subscriptions.close(subscriber)
            self._subscriptions.notify(
                subscriber_id,
                f"dunning.{step}",
                str(bill_id),
                {
                    "bill_no": bill.bill_no,
                    "remaining_nano": bill.remaining_nano,
                    "due_at": bill.due_at.isoformat(),
                },
            )
        return 1

    def _end_dunning(self) -> None:
        """End the steps of bills that a credit of an order or a refund has settled."""
        for subscriber_id in dunning_store.dunned_for_nothing(self._connection, DUNNING_BATCH):
            with self._connection.transaction():
                self._subscriptions.lock([subscriber_id])
                self._open.follow(subscriber_id)
