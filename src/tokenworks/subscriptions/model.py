"""Subscribers, members, orders, products: frozen, pure; and the arithmetic of cycles."""

import hashlib
import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Literal, NamedTuple
from uuid import UUID

from tokenworks.kernel import Invalid

# Carriers' months are Chinese months: UTC+8, no daylight saving.
BILLING_ZONE: Final = timezone(timedelta(hours=8))
# ASCII digits: `\d` would take any script's.
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")


SuspensionCause = Literal["payment", "operator", "fraud", "lost_phone", "own_wish"]


class SuspensionEffects(NamedTuple):
    """What a suspension stops: requests and orders; the next cycle of what is had; anything that would be charged."""

    serving: bool
    renewing: bool
    charging: bool


SUSPENSIONS: Final[dict[SuspensionCause, SuspensionEffects]] = {
    # A bill is overdue: lifted by what pays or credits it, and by nothing else.
    "payment": SuspensionEffects(serving=True, renewing=True, charging=True),
    "operator": SuspensionEffects(serving=True, renewing=True, charging=True),
    "fraud": SuspensionEffects(serving=True, renewing=True, charging=True),
    # The contract goes on, as a SIM's does: plans renew, so that all is there when the phone is.
    "lost_phone": SuspensionEffects(serving=True, renewing=False, charging=False),
    "own_wish": SuspensionEffects(serving=True, renewing=True, charging=True),
}
"""What each cause stops. A subscriber is served, renewed and charged where none of its causes stops it (decision 36)."""
# No new cycle begins where one of these holds: a cycle is charged when it begins.
CYCLE_STOPPERS: Final = tuple(
    cause for cause, stops in SUSPENSIONS.items() if stops.renewing or stops.charging
)


Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class ConsentText:
    """What is shown of a purpose in a language."""

    purpose: str
    language: Language
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Suspension:
    """A period for which one cause suspended a subscriber; `ended_at` is None while it does."""

    suspension_id: UUID
    subscriber_id: UUID
    cause: SuspensionCause
    reason: str | None
    began_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    subscriber_id: UUID
    account_id: UUID
    # Empty where the person was erased.
    phone: str
    name: str | None
    created_at: datetime
    state: Literal["active", "suspended", "closed"] = "active"
    # Whom offerings must be made for; None: not said, so all.
    audiences: tuple[str, ...] | None = None
    language: Literal["zh", "en"] = "zh"
    broadband: str | None = None
    real_name: Literal["unknown", "pending", "verified", "refused"] = "unknown"
    # The day of the month on which the bill's period begins.
    bill_day: int = 1
    credit_limit_nano: int | None = None
    # Of pay-as-you-go: at most so much a calendar month; nothing at all; beside a plan.
    cap_nano: int = 50_000_000_000
    spend_locked: bool = False
    spill_over: bool = False
    # By dunning: nothing more is bought.
    restricted: bool = False
    # Residency: where requests may be sent, as prefixes of regions (`cn` allows `cn-sh`); None: anywhere.
    regions: tuple[str, ...] | None = None
    # Where it is, so that an edge box near it may serve it; None: not said.
    home_region: str | None = None
    # The causes that suspend it now, in the order in which they came.
    suspended_by: tuple[SuspensionCause, ...] = ()
    # How often its monthly cap was raised: each time the alerts of the month are armed again.
    cap_raises: int = 0

    @property
    def begins_cycles(self) -> bool:
        """Whether a new cycle may begin, and be charged."""
        return not set(self.suspended_by) & set(CYCLE_STOPPERS)

    @property
    def phone_masked(self) -> str:
        """For logs and lists: country code and the last four digits at most."""
        if not self.phone:
            return "(erased)"
        return f"{self.phone[:3]}{'*' * max(0, len(self.phone) - 7)}{self.phone[-4:]}"


@dataclass(frozen=True, slots=True)
class PrivacyRules:
    """What an installation declares of consents, real names and erasure."""

    # Where data stays without consent to leave; as a region's prefix.
    residency_region: str = "cn"
    # Data may leave until the consent is withdrawn (`opt_out`), or from when it is given (`opt_in`).
    cross_border: Literal["opt_out", "opt_in"] = "opt_out"
    # Nothing is ordered or served without consent to the terms; else only a withdrawn one counts.
    terms_required: bool = False
    # Nothing is ordered before the carrier has verified the real name; else only a refused one counts.
    real_name_required: bool = False
    # How long the keyed hash of an identity number outlives an erasure, for limits per person; 0: it does not.
    identity_hash_days: int = 1095

    def terms_ok(self, said: bool | None) -> bool:
        """`said`: what was said last of the terms, None where nothing was."""
        return said or (said is None and not self.terms_required)

    def regions(self, wanted: tuple[str, ...] | None, said: bool | None) -> tuple[str, ...] | None:
        """Where requests may be sent: where the subscriber wants them, cut to the residency region where data may not leave it.

        `said`: what was said last of data leaving it, None where nothing was. Nothing is left where the two exclude each other.
        """
        if said or (said is None and self.cross_border == "opt_out"):
            return wanted
        home = self.residency_region
        if wanted is None:
            return (home,)
        inside = [region if _is_within(region, home) else home for region in wanted
                  if _is_within(region, home) or _is_within(home, region)]  # fmt: skip
        return tuple(dict.fromkeys(inside))


def _is_within(region: str, of: str) -> bool:
    return region == of or region.startswith(f"{of}-")


CapPeriod = Literal["day", "month", "total"]


@dataclass(frozen=True, slots=True)
class Member:
    """Who spends from a subscriber's account: the owner, a person, or a department; each under its own cap."""

    member_id: UUID
    account_id: UUID
    subscriber_id: UUID
    name: str
    role: str
    parent_id: UUID | None
    cap_tokens: int | None
    cap_period: CapPeriod | None
    created_at: datetime
    # Of somebody who signs in; invited until they accept.
    phone: str | None = None
    state: Literal["invited", "active", "left"] = "active"

    @property
    def can_leave(self) -> bool:
        """Whether it can be taken out: the owner and the departments stay."""
        return self.role not in {"owner", "department"}


def period_of(period: CapPeriod, created_at: datetime, now: datetime) -> tuple[datetime, datetime | None]:
    """The period of a cap that `now` is in: a day or a month of the carrier's zone, or all of time."""
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
    """What an order left in the inventory (TMF637). `price_nano` is what a bundle gives it of its own price."""

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
    # What pays for the running cycle; None where that cost nothing.
    charge_id: UUID | None = None
    # Suspended because the credit limit did not allow its next cycle: it goes on by itself.
    held: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """An order (TMF622) to add, modify or delete a product. `new` is False where the idempotency key had been used for the
    same order before.

    `starts_at`: an order for later, which is `acknowledged` until then, without a product (`has_product`) or a charge;
    `delivery` is how it is to be delivered.
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


@dataclass(frozen=True, slots=True)
class TopUp:
    """Steps of pay-as-you-go that somebody bought by hand."""

    top_up_id: UUID
    subscriber_id: UUID
    product_id: UUID
    steps: int
    amount_nano: int
    made_at: datetime


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """What another system is asked to deliver, or to take away again."""

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
    # Where it is delivered, as it was when it was asked for.
    broadband: str | None = None
    # When the delivering system got it last; how often it was tried; why it did not arrive.
    pushed_at: datetime | None = None
    push_tries: int = 0
    push_error: str | None = None


def check_idempotency_key(key: str | None) -> None:
    """Raises `Invalid`."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid("an idempotency key is 1 to 200 visible ASCII characters")


def parse_phone(text: str) -> str:
    """A phone number in E.164 (ITU-T E.164: + and at most 15 digits). Raises `Invalid`."""
    phone = re.sub(r"[ \t()-]", "", text)
    if not _E164.fullmatch(phone):
        raise Invalid("a phone number is E.164: + and country code and number, such as +8613800000001")
    return phone


def add_months(start: datetime, months: int) -> datetime:
    """The same day and time `months` later in the billing zone; the last day where a month is shorter."""
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
    """When a cycle ends. An anniversary is counted from the first start, so that the 31st comes back after February."""
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
    """When the whole cycle began that an instant is in: the month's first instant, or the last anniversary of the first start."""
    if cycle == "calendar_month":
        return month_start(at)
    begin, local = started_at.astimezone(BILLING_ZONE), at.astimezone(BILLING_ZONE)
    months = max(0, (local.year - begin.year) * 12 + local.month - begin.month)
    return next(found for n in range(months, -1, -1) if (found := add_months(started_at, n)) <= at or n == 0)


def month_start(at: datetime) -> datetime:
    """The first instant of the calendar month in the billing zone."""
    return at.astimezone(BILLING_ZONE).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def bill_period_end(bill_day: int, at: datetime) -> datetime:
    """The last end of a bill's period that is not after `at`: midnight of the billing day in the billing zone."""
    local = at.astimezone(BILLING_ZONE)
    end = local.replace(day=bill_day, hour=0, minute=0, second=0, microsecond=0)
    return end if end <= local else add_months(end, -1)


@dataclass(frozen=True, slots=True)
class ContractPrice:
    """What a contract says that an offering costs a subscriber, in nano, VAT included."""

    offering_id: str
    price_nano: int
    valid_from: datetime
    valid_until: datetime | None
    contract: str
