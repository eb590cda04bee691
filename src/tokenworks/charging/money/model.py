"""The types of money, frozen and pure: charges, sales, bill lines, adjustments.

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
    """One charge of a subscriber; negative if it is a credit. Amounts include VAT."""

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
    # For a credit whose charge is on a bill: the bill line that it reduces, by how much in whole fen, and the entry of the rounding.
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
        """The customer liability of this charge: what the operator has sold and not delivered yet."""
        if self.recognise == "none":
            return 0
        return self.net_nano - self.recognised_nano - self.broken_nano - self.refunded_nano


@dataclass(frozen=True, slots=True)
class Sale:
    """One sale: product, period, price and buckets. It costs and brings the part `share_num / share_den` of price and quantities."""

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
    # What rolls over at the period's end: (whole units at most, or None for all; until when it is valid).
    rollover: tuple[int | None, datetime] | None = None
    share_num: int = 1
    share_den: int = 1
    # The sale brings its quantity and costs nothing.
    free: bool = False


@dataclass(frozen=True, slots=True)
class BillLine:
    """A line of a bill: the sum of some charges, exact (`charged_nano`) and in whole fen (`amount_nano`), tax included."""

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
    """A requested or decided adjustment of a balance. `amount` is in thousandths of the bucket's unit; negative: it takes away."""

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
