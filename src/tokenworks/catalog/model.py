"""Offerings and rate cards: frozen, validated, pure.

A rate card has, for each class of models, the cost of one token of each class, in the unit of a bucket (thousandths of a token,
call or credit; nano money). Weights are integers, so that rating a record never rounds.
"""

import hashlib
import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from tokenworks.catalog.counts import Weights
from tokenworks.kernel import Invalid, parse_money

WEIGHT_MAX: Final = 10**12
SAMPLE_PREFIX: Final = "sample-"
QUANTITY_MAX: Final = 10**15
WINDOWS_S: Final = {"5h": 5 * 3600, "week": 7 * 86_400}
_LONGEST_MONTH_S: Final = 31 * 86_400
Weight = Annotated[int, Field(strict=True, ge=0, le=WEIGHT_MAX)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]


class Inconsistent(ValueError):
    """Inconsistencies, each as (path below the validated value, reason)."""

    def __init__(self, found: list[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__("; ".join(reason for _, reason in found))
        self.found = found


def _check(*rules: tuple[object, str]) -> None:
    """Each rule is (true if it is broken, reason). Raises `Inconsistent` with the reasons of all broken rules."""
    found: list[tuple[tuple[str | int, ...], str]] = [((), reason) for broken, reason in rules if broken]
    if found:
        raise Inconsistent(found)


# A time begins with a date: pydantic would also accept numbers.
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*", re.DOTALL)


def _as_time(value: object) -> object:
    if value is None or isinstance(value, datetime) or (isinstance(value, str) and _TIME.fullmatch(value)):
        return value
    raise ValueError("a time is written as 2026-01-01T00:00:00+08:00")


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its zone, such as 2026-01-01T00:00:00+08:00")
    return value


class CatalogueModel(BaseModel):
    """The base of a catalogue's models: immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Rate(CatalogueModel):
    """The weights of one class of models. `models` are shell patterns of model names; the first match wins."""

    model_class: Slug
    models: tuple[Pattern, ...] = Field(min_length=1, max_length=1000)
    request: Weight = 0
    fresh_input: Weight
    cached_input: Weight
    cache_write: Weight
    audio_input: Weight
    output: Weight
    reasoning: Weight
    audio_output: Weight
    # None: the weight of `cache_write`.
    cache_write_1h: Weight | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out `cache_write_1h` where it is not set, so that a card from before this class keeps its text and its version."""
        content: dict[str, object] = serialise(self)
        if self.cache_write_1h is None:
            content.pop("cache_write_1h", None)
        return content

    def weights(self) -> Weights:
        return Weights(
            self.request,
            self.fresh_input,
            self.cached_input,
            self.cache_write,
            self.audio_input,
            self.output,
            self.reasoning,
            self.audio_output,
            self.cache_write if self.cache_write_1h is None else self.cache_write_1h,
        )


class RateCard(CatalogueModel):
    """The rates of all classes of models. A card is immutable; its version is the hash of its content."""

    id: Slug
    effective_from: Annotated[datetime, BeforeValidator(_as_time)]
    sample: bool = Field(default=False, strict=True)
    source: str = Field(min_length=1, max_length=500)
    rates: tuple[Rate, ...] = Field(min_length=1, max_length=100)

    @field_validator("effective_from")
    @classmethod
    def _zoned(cls, value: datetime) -> datetime:
        return _aware(value)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [rate.model_class for rate in self.rates]
        if len(set(names)) != len(names):
            raise ValueError("a model class has one rate in a card")
        return self

    def version(self) -> str:
        return _hash("rate", self)

    def rate_for(self, model: str) -> Rate | None:
        """The rate of a model; None if this card does not sell the model."""
        for rate in self.rates:
            if any(fnmatchcase(model, pattern) for pattern in rate.models):
                return rate
        return None


class BucketSpec(CatalogueModel):
    """A bucket that an order makes. `quantity` is in whole tokens, calls, prompts or credits."""

    unit: Literal["token", "call", "prompt", "credit"]
    quantity: int = Field(strict=True, gt=0, le=QUANTITY_MAX)
    priority: int = Field(default=10, strict=True, ge=0, le=1000)
    model_classes: tuple[Pattern, ...] = Field(default=("*",), min_length=1, max_length=100)
    # The quantity is for any 5 hours or any week. `month` is the plan's own month: the quantity is for the cycle.
    window: Literal["5h", "week", "month"] | None = None

    @property
    def window_s(self) -> int | None:
        """The length of the sliding window, after which a use no longer counts; None for a bucket without one."""
        return None if self.window is None else WINDOWS_S.get(self.window)


Charge = Literal["produced", "nothing"]


class ChargingPolicy(CatalogueModel):
    """What the subscriber pays for attempts that do not end normally, and what happens when its buckets are empty.

    `produced`: the subscriber pays what was produced and could reach the client, with the input as far as it is known. `nothing`:
    the operator bears the cost. An attempt that produced nothing always costs nothing.
    """

    # When nothing is left: end the request; end it and name the top-up page; or serve a cheaper model from then on.
    final_unit: Literal["terminate", "redirect", "restrict"] = "terminate"
    top_up_url: str | None = Field(default=None, pattern=r"^https://[!-~]{1,500}$")
    restrict_to: str | None = Field(default=None, pattern=r"^[!-~]{1,200}$")
    # The client disconnected: while content came, or after the last content.
    client_gone_in_content: Charge = "produced"
    client_gone_after_content: Charge = "produced"
    # The deployment timed out, or broke off, after content.
    upstream_timeout: Charge = "produced"
    upstream_error: Charge = "produced"
    # A complete answer without content, and an answer that the provider's filter stopped.
    empty_answer: Charge = "nothing"
    content_filtered: Charge = "produced"
    # Input that the provider had cached: at the rate card's cached rate, or free.
    cache_hit: Charge = "produced"
    # The client disconnected before content, though the deployment has read the input.
    client_gone_before_content: Charge = "nothing"
    # An attempt that another one replaced.
    retried_attempt: Literal["nothing"] = "nothing"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check(
            (
                self.final_unit == "redirect" and self.top_up_url is None,
                "final_unit: redirect needs a top_up_url",
            ),
            (
                (self.final_unit == "restrict") != (self.restrict_to is not None),
                "final_unit: restrict and restrict_to go together",
            ),
        )
        return self


ModelReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$")]


class Service(CatalogueModel):
    """What a plan promises beside its tokens: the objective of placement, and the share of its requests under overload."""

    objective: Literal["latency", "cost", "balance", "quality"] = "latency"
    # A subscriber of weight 2 gets twice the share of a model's capacity that a subscriber of weight 1 gets.
    weight: int = Field(default=1, strict=True, ge=1, le=100)
    # Its requests are served before all others in the queue.
    priority: bool = Field(default=False, strict=True)
    # An edge box near the subscriber is tried first.
    edge_first: bool = Field(default=True, strict=True)
    # If a request declares tools that run at the vendor (searches, sandboxes): drop and name the tools, or refuse the request.
    hosted_tools: Literal["drop", "refuse"] = "drop"
    # The model (or alias, or intent) of a request that names no known one, if its key may use that.
    default_model: ModelReference | None = None
    # The share of an answer's charge, in percent, that an equal request pays for the same answer from the response cache. None: the plan
    # has no cache.
    cache_percent: int | None = Field(default=None, strict=True, ge=0, le=100)
    # The models (or aliases, or intents) of a request that its own model can't have, in order, if neither the request nor its key names
    # any. Its key has to allow them.
    fallback_models: tuple[ModelReference, ...] = Field(default=(), max_length=8)
    # A request that a content policy refused goes on to the next of its models, too.
    fallback_after_moderation: bool = Field(default=True, strict=True)
    # Responses that a request wants stored are kept here, encrypted and for days, and later requests may continue them.
    stores_responses: bool = Field(default=False, strict=True)

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out the newer fields where they are not used, so that an offering from before them keeps its text and its version, and a
        host of the release before can read it.
        """
        content: dict[str, object] = serialise(self)
        if self.cache_percent is None:
            content.pop("cache_percent", None)
        if not self.fallback_models:
            content.pop("fallback_models", None)
        if self.fallback_after_moderation:
            content.pop("fallback_after_moderation", None)
        if not self.stores_responses:
            content.pop("stores_responses", None)
        return content


class Rollover(CatalogueModel):
    """The unused quantity of a plan's month is valid for one more month, up to `quantity_max` whole units (None: all of it)."""

    quantity_max: int | None = Field(default=None, strict=True, gt=0, le=QUANTITY_MAX)


Audience = Literal[
    "person", "family", "developer", "small_business", "enterprise", "device_maker", "ecosystem_partner"
]
Delivery = Literal["network", "local_hardware", "cloud_computer"]
# What a part of a cycle costs, and what is credited of it: see `subscriptions.orders.proration`.
Proration = Literal["prorate", "full", "free_until_next_cycle"]


class Offering(CatalogueModel):
    """A product offering (TMF620). `price` is a decimal in quotes, in yuan, VAT included.

    A plan renews by the month; pay-as-you-go sells its buckets in steps of `price` as they are needed; an add-on has no
    buckets and is delivered by another system behind a fulfilment port; a bundle sells its parts together at its price.
    """

    id: Slug
    name: Name
    name_zh: Name
    carrier: Name
    kind: Literal["plan", "pay_as_you_go", "trial", "add_on", "bundle"]
    # `comparison`: another seller's tariff, which is shown for comparison and can't be ordered.
    status: Literal["in_study", "active", "retired", "comparison"] = "active"
    # The time in which it can be ordered. Sold products stay.
    valid_from: Annotated[datetime | None, BeforeValidator(_as_time)] = None
    valid_until: Annotated[datetime | None, BeforeValidator(_as_time)] = None
    audiences: tuple[Audience, ...] = Field(min_length=1)
    # It can be ordered only beside a live product of one of these, and at most this many times in all by one person: over all
    # subscribers with its identity, closed ones too. A change to the offering counts.
    requires: tuple[Slug, ...] = Field(default=(), max_length=100)
    per_subscriber_max: int | None = Field(default=None, strict=True, gt=0, le=1000)
    # By law it is sold only after the carrier's real-name check.
    real_name_only: bool = Field(default=False, strict=True)
    price: str
    first_price: str | None = None
    currency: Literal["CNY"] = "CNY"
    # Included in the price.
    vat_percent: int = Field(default=6, strict=True, ge=0, le=100)
    cycle: Literal["calendar_month", "anniversary_month", "once"]
    # What is charged for a cycle that begins late, is changed, or ends early: its share by time, the whole price, or nothing
    # before the next cycle. A bundle's policy holds for its parts.
    proration: Proration = "prorate"
    validity_days: int | None = Field(default=None, strict=True, gt=0, le=3660)
    rate_card: Slug
    buckets: tuple[BucketSpec, ...] = Field(default=(), max_length=20)
    rollover: Rollover | None = None
    # The offerings of a bundle.
    parts: tuple[Slug, ...] = Field(default=(), max_length=10)
    # The fulfilment port of an add-on, and its ways of delivery.
    fulfilment: Slug | None = None
    deliveries: tuple[Delivery, ...] = Field(default=(), max_length=3)
    policy: ChargingPolicy = ChargingPolicy()
    service: Service = Service()
    samples: tuple[Name, ...] = Field(default=(), max_length=50)
    source: str = Field(min_length=1, max_length=500)

    @field_validator("price", "first_price", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        if value is None:
            return None
        try:
            parse_money(value)  # type: ignore[arg-type]
        except Invalid as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("valid_from", "valid_until")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return None if value is None else _aware(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kind, cycle, buckets = self.kind, self.cycle, self.buckets
        windows = [bucket for bucket in buckets if bucket.window]
        step = kind == "pay_as_you_go"
        _check(
            (
                (kind in {"plan", "pay_as_you_go", "trial"}) != bool(buckets),
                "plans, pay-as-you-go and trials have buckets, add-ons and bundles have none",
            ),
            (
                (kind == "bundle") != bool(self.parts) or len(set(self.parts)) != len(self.parts),
                "a bundle, and nothing else, has parts, each once",
            ),
            (
                (kind == "add_on") != (self.fulfilment is not None),
                "an add-on, and nothing else, names the fulfilment port that delivers it",
            ),
            (self.deliveries and kind != "add_on", "deliveries go with kind: add_on"),
            (
                self.rollover is not None and (kind != "plan" or windows),
                "rollover goes with a plan whose buckets have no windows",
            ),
            (
                step and (cycle != "once" or self.validity_days is None or len(buckets) != 1),
                "pay-as-you-go is sold in steps: cycle: once, validity_days and one bucket",
            ),
            (
                step and (self.first_price is not None or not parse_money(self.price).amount_nano),
                "a step of pay-as-you-go has one price above zero",
            ),
            (
                len({bucket.unit for bucket in buckets}) > 1,
                "the buckets of an offering are of one unit: its price is earned as they are used",
            ),
            (
                self.valid_from and self.valid_until and self.valid_from >= self.valid_until,
                "valid_from is before valid_until",
            ),
            (
                cycle != "once" and self.validity_days is not None,
                "validity_days goes with cycle: once; a monthly bucket lives to the end of its cycle",
            ),
            (
                self.proration == "free_until_next_cycle" and cycle == "once",
                "proration: free_until_next_cycle goes with a cycle: what is sold once has no next one",
            ),
            (
                kind == "plan" and cycle == "once",
                "a plan renews: give it cycle: calendar_month or anniversary_month",
            ),
            (windows and kind != "plan", "windows go with kind: plan, whose cycle is a month"),
            (
                windows and (len(windows) != len(buckets) or len({bucket.unit for bucket in windows}) != 1),
                "where one bucket has a window, all have one, of one unit",
            ),
            (
                any(bucket.unit not in {"call", "prompt"} for bucket in windows),
                "a window counts calls or prompts",
            ),
            (len({bucket.window for bucket in windows}) != len(windows), "a window is there once"),
            (
                len({(bucket.priority, bucket.model_classes) for bucket in windows}) > 1,
                "the windows of an offering have one priority and the same model classes",
            ),
        )
        return self

    def cycle_buckets(self) -> list[BucketSpec]:
        """The buckets of each cycle. An offering with windows alone has one bucket, with the most that its windows allow in a
        month.
        """
        cycle_buckets = [bucket for bucket in self.buckets if bucket.window_s is None]
        if cycle_buckets or not self.buckets:
            return cycle_buckets
        tightest = min(
            self.buckets,
            key=lambda bucket: bucket.quantity * (_LONGEST_MONTH_S // (bucket.window_s or 1) + 2),
        )
        times = _LONGEST_MONTH_S // (tightest.window_s or 1) + 2
        return [tightest.model_copy(update={"quantity": tightest.quantity * times, "window": None})]

    @property
    def is_sample(self) -> bool:
        """True if it is on sale in a dev environment alone: its id begins with `sample-`."""
        return self.id.startswith(SAMPLE_PREFIX)

    @property
    def begins(self) -> datetime:
        """The begin of its sale; without `valid_from`, the beginning of time."""
        return self.valid_from or datetime.min.replace(tzinfo=UTC)

    @property
    def earned(self) -> Literal["usage", "time"]:
        """How its price becomes revenue: with the usage of its quantity, or with time if it has no quantity for a cycle."""
        return "usage" if any(bucket.window_s is None for bucket in self.buckets) else "time"

    def window_buckets(self) -> list[BucketSpec]:
        """The buckets with sliding windows, which continue from one cycle into the next."""
        return [bucket for bucket in self.buckets if bucket.window_s is not None]

    def version(self, rate_version: str) -> str:
        return _hash("offering", self, rate_version)


def _hash(kind: str, content: BaseModel, *more: str) -> str:
    return content_version(kind, canonical(content), *more)


def content_version(kind: str, text: str, *more: str) -> str:
    """The version of a content: the first 128 bits of SHA-256 over its canonical text. It is checked when the content is read.

    The hash is over the stored text, so that a sold version stays the same when offerings get a new field.
    """
    digest = hashlib.sha256("\n".join([text, *more]).encode()).hexdigest()
    return f"{kind}-{digest[:32]}"


def canonical(content: BaseModel) -> str:
    """The one text of a content, which is stored and hashed."""
    return content.model_dump_json()
