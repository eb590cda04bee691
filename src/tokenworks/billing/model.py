"""Bills, their lines, payments, refunds, dunning: frozen and pure. Amounts include VAT, in nano units."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

DunningStep = Literal["remind", "restrict", "suspend", "close"]
DUNNING_STEPS: Final[tuple[DunningStep, ...]] = ("remind", "restrict", "suspend", "close")


@dataclass(frozen=True, slots=True)
class Bill:
    """A customer bill (TMF678): what was charged in a period, less credits. Issued once, never edited."""

    bill_id: UUID
    subscriber_id: UUID
    account_id: UUID
    bill_no: str
    period_start: datetime
    period_end: datetime
    issued_at: datetime
    due_at: datetime
    currency: str
    amount_nano: int
    tax_nano: int
    remaining_nano: int
    state: Literal["new", "sent", "partiallyPaid", "settled"]


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that came in for a bill. `new` is False where the reference had been used for the same payment before."""

    payment_id: UUID
    subscriber_id: UUID
    bill_id: UUID | None
    method: str
    amount_nano: int
    currency: str
    reference: str
    paid_at: datetime
    new: bool = True


@dataclass(frozen=True, slots=True)
class Payout:
    """Money that went to a closed subscriber: what its credits were more than its charges."""

    payout_id: UUID
    subscriber_id: UUID
    method: str
    amount_nano: int
    currency: str
    reference: str
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A correction of an issued bill: its credit comes on the next one."""

    credit_note_id: UUID
    credit_note_no: str
    bill_id: UUID
    charge_id: UUID
    amount_nano: int
    tax_nano: int
    reason: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Refund:
    """What is given back of one charge. Pending while something of it is still granted. `asked_nano`: an amount that was asked for,
    or what was not earned by time at that instant; `kept`: of what the charge brought, what was used or still there then.
    """

    refund_id: UUID
    order_id: UUID
    account_id: UUID
    charge_id: UUID
    part: Literal["whole", "unused", "amount"]
    asked_nano: int | None
    reason: str
    state: Literal["pending", "done"]
    amount_nano: int | None
    asked_at: datetime
    done_at: datetime | None
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class DunningPlan:
    """How many days after a bill was due each step is taken; None: never."""

    remind: int | None = 3
    restrict: int | None = 10
    suspend: int | None = 20
    close: int | None = 90

    def due_before(self, step: DunningStep, now: datetime) -> datetime | None:
        """Bills that were due before this are at this step."""
        days: int | None = getattr(self, step)
        return None if days is None else now - timedelta(days=days)


@dataclass(frozen=True, slots=True)
class BillRun:
    """What a run did, or would do."""

    bills: int
    lines: int
    amount_nano: int
    batches: int
