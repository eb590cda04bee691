"""Cases to reconcile: money that a person has to assign. They are opened and closed in the transaction of what causes them."""

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
        """Open a case for each payment that exceeds what was open; the bills are as they were before the payments."""
        self._add(
            [
                self._case("surplus", bill, payment.amount_nano - bill.remaining_nano, payment.payment_id)
                for payment, bill in payments
                if payment.amount_nano > bill.remaining_nano
            ]
        )

    def rejected(self, bills: Sequence[Bill]) -> None:
        """Open a case for each bill that is not sent to the carrier again, if anything is open on the bill."""
        self._add(
            [self._case("rejected", bill, bill.remaining_nano) for bill in bills if bill.remaining_nano]
        )

    def paid_out(self, payment: Payment, bill: Bill, amount_nano: int) -> None:
        """Open a case for a reversed payment that a payout was made from; `amount_nano`: what is missing for the payout."""
        self._add([self._case("paid_out", bill, amount_nano, payment.payment_id)])

    def payment_reversed(self, payment: Payment, at: datetime) -> None:
        """Close the cases of a payment that was reversed."""
        case_store.close_cases(
            self._connection, "the payment was reversed", at, payment_id=payment.payment_id
        )

    def resolve(self, bill: Bill, resolution: str) -> None:
        """Close the case of a bill that the carrier rejected; `resolution` says what became of the bill."""
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
