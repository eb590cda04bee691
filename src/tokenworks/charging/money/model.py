"""The words of money, frozen and pure: what is owed, what is sold, what a bill says, what is moved by hand.

Amounts are nano-yuan; quantities are thousandths of a bucket's unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from tokenworks.catalog import BucketSpec

ChargeKind = Literal["cycle", "step", "change", "credit", "refund", "adjustment"]


@dataclass(frozen=True, slots=True)
class Charge:
    """One thing that a subscriber owes for, or is credited (negative). Amounts include VAT."""

    charge_id: UUID
    account_id: UUID
    subscriber_id: UUID
    product_id: UUID | None
    offering_version: str | None
    kind: ChargeKind
    number: int
    charged_at: datetime
    period_start: datetime
    period_end: datetime | None
    description: str
    description_zh: str
    price_nano: int
    share_num: int
    share_den: int
    amount_nano: int
    vat_percent: int
    tax_nano: int
    currency: str
    entry_id: UUID
    of_charge_id: UUID | None
    quantity: int
    recognise: Literal["usage", "time", "none"]
    recognised_nano: int
    broken_nano: int
    refunded_nano: int
    credited_nano: int
    closed_at: datetime | None
    bill_id: UUID | None
    line_no: int | None
    # Of a credit whose charge is on a bill: what it takes off that bill's line, in whole fen, and the rounding's entry.
    settles_bill_id: UUID | None = None
    settles_line_no: int | None = None
    settled_nano: int | None = None
    settled_tax_nano: int | None = None
    settled_entry_id: UUID | None = None

    @property
    def net_nano(self) -> int:
        return self.amount_nano - self.tax_nano

    @property
    def owed_nano(self) -> int:
        """What is paid for and not delivered yet: the customer liability of this charge."""
        if self.recognise == "none":
            return 0
        return self.net_nano - self.recognised_nano - self.broken_nano - self.refunded_nano


@dataclass(frozen=True, slots=True)
class Sale:
    """What is sold: to whom, for which time, at which price, and how much of it (`share_num / share_den` of the price)."""

    account_id: UUID
    subscriber_id: UUID
    product_id: UUID
    offering_version: str
    rate_version: str
    kind: ChargeKind
    number: int
    period_start: datetime
    period_end: datetime | None
    description: str
    description_zh: str
    price_nano: int
    currency: str
    vat_percent: int
    specs: Sequence[BucketSpec]
    recognise: Literal["usage", "time"]
    # (whole units at most, None for all; until when) of what is left at the period's end.
    rollover: tuple[int | None, datetime] | None = None
    share_num: int = 1
    share_den: int = 1
    # The quantity comes, and costs nothing.
    free: bool = False


@dataclass(frozen=True, slots=True)
class BillLine:
    """What a bill says of some charges: `charged_nano` exactly, `amount_nano` in whole fen, tax included."""

    bill_id: UUID
    line_no: int
    account_id: UUID
    product_id: UUID | None
    offering_version: str | None
    kind: ChargeKind
    description: str
    description_zh: str
    charges: int
    charged_nano: int
    amount_nano: int
    vat_percent: int
    tax_nano: int
    entry_id: UUID | None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`amount` in thousandths of the bucket's unit, below zero to take away."""

    adjustment_id: UUID
    account_id: UUID
    bucket_id: UUID
    amount: int
    unit: str
    reason: str
    asked_by: str
    asked_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    state: Literal["asked", "done", "refused"]
