"""Cases to reconcile: money whose place a person has to find, opened and closed with what leads to them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import case_store
from tokenworks.billing.model import Bill, CaseKind, Payment, ReconciliationCase
from tokenworks.kernel import Clock, uuid7


class Cases:
    """On one connection, in the caller's transaction."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def surplus(self, payments: Sequence[tuple[Payment, Bill]]) -> None:
        """Open one for each payment that was more than what was open, as its bill says that still."""
        self._add(
            [
                self._case("surplus", bill, payment.amount_nano - bill.remaining_nano, payment.payment_id)
                for payment, bill in payments
                if payment.amount_nano > bill.remaining_nano
            ]
        )

    def rejected(self, bills: Sequence[Bill]) -> None:
        """Open one for each bill that the carrier is not asked for again, where something is open on it."""
        self._add(
            [self._case("rejected", bill, bill.remaining_nano) for bill in bills if bill.remaining_nano]
        )

    def paid_out(self, payment: Payment, bill: Bill, amount_nano: int) -> None:
        """Open one for a reversed payment that a payout had been made from: what of that is missing now."""
        self._add([self._case("paid_out", bill, amount_nano, payment.payment_id)])

    def payment_reversed(self, payment: Payment, at: datetime) -> None:
        """Close those of a payment that was taken back."""
        case_store.close_cases(
            self._connection, "the payment was reversed", at, payment_id=payment.payment_id
        )

    def resolve(self, bill: Bill, resolution: str) -> None:
        """Close the one of a bill that the carrier did not collect: what became of it."""
        case_store.close_cases(self._connection, resolution, self._clock.now(), rejected_bill_id=bill.bill_id)

    def _case(
        self, kind: CaseKind, bill: Bill, amount_nano: int, payment_id: UUID | None = None
    ) -> ReconciliationCase:
        return ReconciliationCase(
            uuid7(), bill.subscriber_id, bill.bill_id, payment_id, kind, amount_nano, self._clock.now()
        )

    def _add(self, cases: Sequence[ReconciliationCase]) -> None:
        if cases:
            case_store.add_cases(self._connection, cases)
