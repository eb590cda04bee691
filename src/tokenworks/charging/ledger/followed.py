"""What `RequestLookup` says of one request, as JSON and tables show it.

A usage record, a grant, a posting and a quarantined record are rows of their tables (column name -> value).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict
from uuid import UUID

from psycopg.rows import DictRow

LogLine = dict[str, object]
"""One line of a host's request log."""

PartRow = tuple[str, str, str, str, str, int, int, Sequence[int] | None]
"""A `messages.Part` as the column `parts` has it: bucket and grant as hex, rate version, unit, kind, amount, requests, counts."""


class RateOfDraw(TypedDict):
    """`model_class` and `weights` are None if the rate card is unknown or does not sell the model."""

    rate_version: str
    model_class: str | None
    weights: dict[str, int] | None


class ChargeOfDraw(TypedDict):
    charge_id: UUID
    kind: str
    description: str
    offering_version: str | None
    price_nano: int
    amount_nano: int
    currency: str
    bill_id: UUID | None


class Draw(TypedDict):
    """What one part of a record drew from a bucket. `amount` is in thousandths of `unit`."""

    usage_id: UUID
    bucket_id: UUID
    kind: str
    unit: str
    amount: int
    requests: int
    counts: Sequence[int] | None
    product_id: UUID | None
    grant: DictRow | None
    rate: RateOfDraw
    charge: ChargeOfDraw | None


class ChainLink(TypedDict):
    """`records`: how many records the link covers. `intact`: the record is still what was chained."""

    chain_id: UUID
    link_no: int
    hash: str
    records: int
    intact: bool


class SettlementEntry(TypedDict):
    """The entry that settled a record. `link` is None until the entry is in a chain."""

    usage_id: UUID
    entry_id: UUID
    journal_id: UUID
    seq: int
    ref: str | None
    posted_at: datetime | None
    postings: list[DictRow]
    link: ChainLink | None


class FollowedRequest(TypedDict):
    """`asked`: the id that was looked up. `log`: lines of the host that answers."""

    asked: str
    account_id: UUID | None
    records: list[DictRow]
    draws: list[Draw]
    entries: list[SettlementEntry]
    log: list[LogLine]
    quarantine: list[DictRow]
