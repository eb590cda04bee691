"""Subscribers, members, orders and products, frozen and pure, and the arithmetic of cycles."""

import hashlib
import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

from tokenworks.kernel import Invalid

# Carriers' months are Chinese months: UTC+8, no daylight saving.
BILLING_ZONE: Final = timezone(timedelta(hours=8))
# ASCII digits: `\d` would match digits of any script.
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")


SuspensionCause = Literal["payment", "operator", "fraud", "lost_phone", "own_wish"]


class SuspensionEffects(NamedTuple):
    """What a suspension stops: requests and orders (`serving`), the next cycle of a product (`renewing`), any charge
    (`charging`).
    """

    serving: bool
    renewing: bool
    charging: bool


SUSPENSIONS: Final[dict[SuspensionCause, SuspensionEffects]] = {
    # A bill is overdue. A payment or a credit of the bill lifts this suspension, and nothing else does.
    "payment": SuspensionEffects(serving=True, renewing=True, charging=True),
    "operator": SuspensionEffects(serving=True, renewing=True, charging=True),
    "fraud": SuspensionEffects(serving=True, renewing=True, charging=True),
    # The contract goes on, as a SIM's does: plans renew, so that they can be used when the phone is back.
    "lost_phone": SuspensionEffects(serving=True, renewing=False, charging=False),
    "own_wish": SuspensionEffects(serving=True, renewing=True, charging=True),
}
"""What each cause stops. A subscriber is served, renewed and charged if none of its causes stops that (decision 36)."""
# The causes that stop new cycles: a cycle is charged when it begins, so that a stop of charges stops it, too.
CYCLE_STOPPERS: Final = tuple(
    cause for cause, stops in SUSPENSIONS.items() if stops.renewing or stops.charging
)


Language = Literal["zh", "en"]
RealName = Literal["unknown", "pending", "verified", "refused"]


class Profile(TypedDict, total=False):
    """What can be known of a subscriber beside its number and name: see `Subscriber`."""

    audiences: Sequence[str] | None
    language: Language
    broadband: str | None
    real_name: RealName
    bill_day: int
    credit_limit_nano: int | None
    regions: Sequence[str] | None
    home_region: str | None


@dataclass(frozen=True, slots=True)
class ConsentText:
    """The text that is shown for a consent's purpose, in one language."""

    purpose: str
    language: Language
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Suspension:
    """A period in which one cause suspends a subscriber; `ended_at` is None while it lasts."""

    suspension_id: UUID
    subscriber_id: UUID
    cause: SuspensionCause
    reason: str | None
    began_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A person, family or enterprise with a phone number: the party that is billed."""

    subscriber_id: UUID
    account_id: UUID
    # Empty if the person was erased.
    phone: str
    name: str | None
    created_at: datetime
    state: Literal["active", "suspended", "closed"] = "active"
    # The audiences that the subscriber belongs to; None: not known.
    audiences: tuple[str, ...] | None = None
    language: Language = "zh"
    broadband: str | None = None
    real_name: RealName = "unknown"
    # The day of the month on which a billing period begins.
    bill_day: int = 1
    credit_limit_nano: int | None = None
    # Pay-as-you-go: its cost in a calendar month at most; whether buying is locked; whether it is bought beside a plan.
    cap_nano: int = 50_000_000_000
    spend_locked: bool = False
    spill_over: bool = False
    # Set by dunning: the subscriber can't buy.
    restricted: bool = False
    # Residency: where requests may be sent, as prefixes of regions (`cn` allows `cn-sh`); None: anywhere.
    regions: tuple[str, ...] | None = None
    # The subscriber's region, so that an edge box near it may serve it; None: not known.
    home_region: str | None = None
    # The causes that suspend the subscriber now, in the order in which they began.
    suspended_by: tuple[SuspensionCause, ...] = ()
    # How often the monthly cap was raised: after each raise the alerts of the month are sent again.
    cap_raises: int = 0

    @property
    def begins_cycles(self) -> bool:
        """True if no suspension stops new cycles and their charges."""
        return not set(self.suspended_by) & set(CYCLE_STOPPERS)

    @property
    def phone_masked(self) -> str:
        """The phone number for logs and lists: the country code and the last four digits at most."""
        if not self.phone:
            return "(erased)"
        return f"{self.phone[:3]}{'*' * max(0, len(self.phone) - 7)}{self.phone[-4:]}"


@dataclass(frozen=True, slots=True)
class PrivacyRules:
    """The installation's settings for consents, real names and erasure."""

    # The region (a prefix) that data does not leave without a consent.
    residency_region: str = "cn"
    # Data may leave the region until the consent is withdrawn (`opt_out`), or after the consent is given (`opt_in`).
    cross_border: Literal["opt_out", "opt_in"] = "opt_out"
    # True: orders and requests need a consent to the terms. False: only a withdrawn consent stops them.
    terms_required: bool = False
    # True: orders need a verified real name. False: only a refused real name stops them.
    real_name_required: bool = False
    # How long the keyed hash of an identity number is kept after an erasure, for limits per person; 0: not at all.
    identity_hash_days: int = 1095

    def terms_ok(self, consent: bool | None) -> bool:
        """True if the terms allow orders and requests. `consent`: the subscriber's last answer to the terms; None: no answer."""
        return consent or (consent is None and not self.terms_required)

    def regions(self, wanted: tuple[str, ...] | None, consent: bool | None) -> tuple[str, ...] | None:
        """The regions that requests may be sent to (None: all): the wanted ones, limited to the residency region if data may not
        leave it. Empty if the two have nothing in common.

        `consent`: the subscriber's last answer to `data_cross_border`; None: no answer.
        """
        if consent or (consent is None and self.cross_border == "opt_out"):
            return wanted
        home = self.residency_region
        if wanted is None:
            return (home,)
        inside = [region if _is_within(region, home) else home for region in wanted
                  if _is_within(region, home) or _is_within(home, region)]  # fmt: skip
        return tuple(dict.fromkeys(inside))


def _is_within(region: str, outer: str) -> bool:
    return region == outer or region.startswith(f"{outer}-")


CapPeriod = Literal["day", "month", "total"]


@dataclass(frozen=True, slots=True)
class Member:
    """The owner, a person or a department that spends from a subscriber's account, each under its own cap."""

    member_id: UUID
    account_id: UUID
    subscriber_id: UUID
    name: str
    role: str
    parent_id: UUID | None
    cap_tokens: int | None
    cap_period: CapPeriod | None
    created_at: datetime
    # The number with which the member signs in. The state is `invited` until the member accepts.
    phone: str | None = None
    state: Literal["invited", "active", "left"] = "active"

    @property
    def can_leave(self) -> bool:
        """True if the member can be removed: the owner and departments can't."""
        return self.role not in {"owner", "department"}


def period_of(period: CapPeriod, created_at: datetime, now: datetime) -> tuple[datetime, datetime | None]:
    """The begin and the exclusive end of the cap's period that contains `now`: a day or a month in the billing zone, or all of
    time.
    """
    if period == "total":
        return created_at, None
    begin = now.astimezone(BILLING_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return begin, begin + timedelta(days=1)
    begin = begin.replace(day=1)
    return begin, (begin + timedelta(days=32)).replace(day=1)


ProductState = Literal["pendingActive", "active", "suspended", "cancelled", "aborted", "expired"]
OrderState = Literal[
    "acknowledged", "rejected", "pending", "held", "inProgress", "cancelled", "completed", "failed", "partial"
]


@dataclass(frozen=True, slots=True)
class Product:
    """An entry of the inventory that an order made (TMF637). `price_nano`: of a part of a bundle, its share of the bundle's
    price.
    """

    product_id: UUID
    order_id: UUID
    offering_id: str
    offering_version: str
    state: ProductState
    renews: bool
    cycle_no: int
    started_at: datetime
    cycle_start: datetime
    cycle_end: datetime | None
    parent_id: UUID | None = None
    delivery: str | None = None
    price_nano: int | None = None
    step_no: int = 0
    next_version: str | None = None
    ends_after_cycle: bool = False
    # The charge of the running cycle; None if that cost nothing.
    charge_id: UUID | None = None
    # Suspended because the credit limit did not allow its next cycle; a job resumes it when the limit does.
    held: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """An order (TMF622) to add, modify or delete a product. `new`: False if an earlier request with the same idempotency key made
    it.

    `starts_at`: the start of an order for later, which is `acknowledged` until then, without a product (`has_product`) and a
    charge. `delivery`: the way of delivery of an order for later.
    """

    order_id: UUID
    product_id: UUID
    offering_id: str
    offering_version: str
    ordered_at: datetime
    amount_nano: int
    currency: str
    new: bool
    action: Literal["add", "modify", "delete"] = "add"
    state: OrderState = "completed"
    completed_at: datetime | None = None
    reason: str | None = None
    starts_at: datetime | None = None
    delivery: str | None = None
    has_product: bool = True


CreditReason = Literal["changed", "cancelled"]


class ChargeCredit(TypedDict):
    """Which part of a charge an order gives back: `num / den` of its time."""

    charge_id: str
    num: int
    den: int
    # What the charge still had of its quantity; earlier orders do not have it.
    kept: NotRequired[int]


class CreditRequest(TypedDict):
    """What a change or a cancellation gives back, as its order keeps it until no grant is open (`product_order.asked`)."""

    why: CreditReason
    credits: list[ChargeCredit]


@dataclass(frozen=True, slots=True)
class TopUp:
    """Steps of pay-as-you-go that the subscriber bought by hand."""

    top_up_id: UUID
    subscriber_id: UUID
    product_id: UUID
    steps: int
    amount_nano: int
    made_at: datetime


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """A request to another system to deliver a product, or to withdraw its delivery."""

    work_order_id: UUID
    order_id: UUID
    product_id: UUID
    subscriber_id: UUID
    port: str
    offering_id: str
    delivery: str | None
    action: Literal["deliver", "withdraw"]
    state: Literal["open", "done", "refused"]
    attempts: int
    reason: str | None
    created_at: datetime
    # The broadband number that the product is delivered to, as it was when the work order was made.
    broadband: str | None = None
    # When the delivering system got the work order last; pushes since then; the error of the last push.
    pushed_at: datetime | None = None
    push_tries: int = 0
    push_error: str | None = None


def check_idempotency_key(key: str | None) -> None:
    """Raises `Invalid`."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid("an idempotency key is 1 to 200 visible ASCII characters")


def parse_phone(text: str) -> str:
    """A phone number as E.164 (ITU-T E.164: + and at most 15 digits). Raises `Invalid`."""
    phone = re.sub(r"[ \t()-]", "", text)
    if not _E164.fullmatch(phone):
        raise Invalid("a phone number is E.164: + and country code and number, such as +8613800000001")
    return phone


def add_months(start: datetime, months: int) -> datetime:
    """The same day and time `months` later in the billing zone; in a shorter month, its last day."""
    local = start.astimezone(BILLING_ZONE)
    year, month = divmod(local.month - 1 + months, 12)
    year += local.year
    day = min(local.day, monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day)


def next_month(at: datetime) -> datetime:
    """The first instant of the next calendar month in the billing zone."""
    return add_months(month_start(at), 1)


def cycle_end(
    cycle: str, started_at: datetime, cycle_start: datetime, validity_days: int | None
) -> datetime | None:
    """The end of a cycle. Anniversaries are counted from the first start, so that a cycle of the 31st is on the 31st again after
    February.
    """
    if cycle == "calendar_month":
        return next_month(cycle_start)
    if cycle == "anniversary_month":
        begin, at = started_at.astimezone(BILLING_ZONE), cycle_start.astimezone(BILLING_ZONE)
        months = (at.year - begin.year) * 12 + at.month - begin.month
        return next(
            end for n in range(max(1, months), months + 3) if (end := add_months(started_at, n)) > cycle_start
        )
    return None if validity_days is None else cycle_start + timedelta(days=validity_days)


def cycle_begin(cycle: str, started_at: datetime, at: datetime) -> datetime:
    """The begin of the whole cycle that contains an instant: the first instant of the month, or the last anniversary of the first
    start.
    """
    if cycle == "calendar_month":
        return month_start(at)
    begin, local = started_at.astimezone(BILLING_ZONE), at.astimezone(BILLING_ZONE)
    months = max(0, (local.year - begin.year) * 12 + local.month - begin.month)
    return next(found for n in range(months, -1, -1) if (found := add_months(started_at, n)) <= at or n == 0)


def month_start(at: datetime) -> datetime:
    """The first instant of the calendar month in the billing zone."""
    return at.astimezone(BILLING_ZONE).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def bill_period_end(bill_day: int, at: datetime) -> datetime:
    """The last end of a billing period that is not after `at`: midnight of the billing day in the billing zone."""
    local = at.astimezone(BILLING_ZONE)
    end = local.replace(day=bill_day, hour=0, minute=0, second=0, microsecond=0)
    return end if end <= local else add_months(end, -1)


@dataclass(frozen=True, slots=True)
class ContractPrice:
    """The price of an offering in a subscriber's contract, in nano, VAT included."""

    offering_id: str
    price_nano: int
    valid_from: datetime
    valid_until: datetime | None
    contract: str
