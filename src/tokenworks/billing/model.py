"""Bills, their lines, payments, refunds, dunning: frozen and pure. Amounts include VAT, in nano units."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from tokenworks.charging import FEN_NANO

DunningStep = Literal["remind", "restrict", "suspend", "close"]
DUNNING_STEPS: Final[tuple[DunningStep, ...]] = ("remind", "restrict", "suspend", "close")
Channel = Literal["phone", "direct"]


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
    # What is open on the bill: see `open_amounts`.
    remaining_nano: int
    state: Literal["new", "sent", "partiallyPaid", "settled"]
    # How the bill is collected: by the carrier on the phone bill, or from the subscriber directly.
    channel: Channel = "phone"


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that came in for a bill. `new` is False if the reference was used for the same payment before."""

    payment_id: UUID
    subscriber_id: UUID
    bill_id: UUID | None
    method: str
    amount_nano: int
    currency: str
    reference: str
    paid_at: datetime
    new: bool = True
    # The amount that was requested with the reference. None: all that was open.
    asked_nano: int | None = None
    reversed_at: datetime | None = None
    # Why a debt was written off. None for other payments.
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reversal:
    """The reversal of a payment: a chargeback, or the correction of a mistake."""

    reversal_id: UUID
    payment_id: UUID
    amount_nano: int
    reason: str
    reversed_at: datetime


CaseKind = Literal["surplus", "rejected", "paid_out", "unbooked"]


@dataclass(frozen=True, slots=True)
class ReconciliationCase:
    """Money that a person has to assign. `surplus`: a payment was more than what was open, and the rest is the subscriber's credit;
    `rejected`: the carrier rejected a bill so often that it is not sent again; `paid_out`: a payment was reversed after a payout was
    made from it; `unbooked`: an amount that the carrier collected and an older release did not book in full.
    """

    case_id: UUID
    subscriber_id: UUID
    bill_id: UUID | None
    payment_id: UUID | None
    kind: CaseKind
    amount_nano: int
    opened_at: datetime
    closed_at: datetime | None = None
    resolution: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A request to a provider to take money for a bill. In the state `asked` its result is not known; the same request is then repeated."""

    collection_id: UUID
    subscriber_id: UUID
    bill_id: UUID
    method: str
    reference: str
    amount_nano: int
    # The amount that the caller named. None: all that is open.
    asked_nano: int | None
    currency: str
    state: Literal["asked", "declined", "booked"]
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Payout:
    """Money that was paid to a closed subscriber: the excess of its credits over its charges."""

    payout_id: UUID
    subscriber_id: UUID
    method: str
    amount_nano: int
    currency: str
    reference: str
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A correction of a line of an issued bill, in whole fen. The amount is taken off that bill."""

    credit_note_id: UUID
    credit_note_no: str
    bill_id: UUID
    charge_id: UUID
    amount_nano: int
    tax_nano: int
    reason: str
    issued_at: datetime
    line_no: int | None = None
    credit_charge_ids: tuple[UUID, ...] | None = None
    new: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Dispute:
    """A subscriber's question about a line of a bill, and its answer. `amount_nano` is the amount of the line."""

    dispute_id: UUID
    subscriber_id: UUID
    bill_id: UUID
    bill_no: str
    line_no: int
    description: str
    description_zh: str
    amount_nano: int
    question: str
    asked_at: datetime
    state: Literal["open", "answered"]
    answer: str | None
    answered_by: str | None
    answered_at: datetime | None
    # False if the same question was open already, and this is its dispute.
    new: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Refund:
    """What is given back of one charge; pending while a part of the charge's quantity is granted. `asked_nano`: the amount that was
    requested, or the amount that was not yet earned with time at `asked_at`. `kept`: how much of the charge's quantity was used or
    still there at `asked_at`.
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
    # All refunds of one request have the same batch.
    batch_id: UUID
    kept: int | None = None
    new: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class DunningPlan:
    """After how many days past a bill's due date each step is taken. None: never."""

    remind: int | None = 3
    restrict: int | None = 10
    suspend: int | None = 20
    close: int | None = 90

    def due_before(self, step: DunningStep, now: datetime) -> datetime | None:
        """Bills that were due before this time have come to the step. None: the step is never taken."""
        days: int | None = getattr(self, step)
        return None if days is None else now - timedelta(days=days)


@dataclass(frozen=True, slots=True)
class BillRun:
    """The result of a bill run, or of its dry run."""

    bills: int
    lines: int
    amount_nano: int
    batches: int


def open_amounts(own: Sequence[tuple[UUID, int]], beside_nano: int = 0) -> tuple[dict[UUID, int], int]:
    """({bill: what is open on it}, the subscriber's free credit), in nano: the one rule of what is owed.

    `own`: (bill, its lines less its credits and payments), oldest first. A value below zero means that more came in than the bill
    says: that is the subscriber's credit, and pays its other bills, oldest first. `beside_nano` is what came in for no bill, less what
    was paid out. The free credit is below zero if more was paid out than is left after a reversal.

    sum(open) - free = sum(own) - beside_nano.
    """
    free = beside_nano - sum(min(0, nano) for _, nano in own)
    left: dict[UUID, int] = {}
    for bill_id, nano in own:
        owed = max(0, nano)
        netted = min(owed, max(0, free))
        free -= netted
        left[bill_id] = owed - netted
    return left, free


def tax_of_part(part_nano: int, lines: Sequence[tuple[int, int]]) -> int:
    """The VAT in a part of the total of lines, in nano, rounded to whole fen: each line is settled in proportion to its amount.

    `lines`: (amount, VAT in it) of each, less its credits, in nano.
    """
    amount, tax = sum(a for a, _ in lines), sum(t for _, t in lines)
    if amount <= 0 or part_nano <= 0:
        return 0
    assert part_nano <= amount, "a part is at most the whole"
    return (2 * part_nano * tax + amount * FEN_NANO) // (2 * amount * FEN_NANO) * FEN_NANO
