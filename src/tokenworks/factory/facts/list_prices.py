"""List prices of models: what a seller publishes, and what that is in nano yuan per token.

A price is a decimal text per million tokens, in the seller's currency, as it is published. It pays nothing: what the operator pays is
declared with a deployment, and what customers pay is in the rate cards of the catalogue.
"""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.model import Price

AMOUNT_PATTERN: Final = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?$"
SELLER_PATTERN: Final = r"^[a-z0-9][a-z0-9.-]{0,62}$"
TIERS_MAX: Final = 20
Amount = Annotated[str, Field(pattern=AMOUNT_PATTERN)]
Note = Annotated[str, Field(min_length=1, max_length=500)]
# Nano yuan per token = yuan per million tokens x 10^9 / 10^6.
_NANO_PER_MILLIONTH: Final = 1000
# Classes of a list price -> those of what a deployment pays.
_PAID_CLASSES: Final = {
    "input": "fresh_input_nano",
    "cached_input": "cached_input_nano",
    "cache_write": "cache_write_nano",
    "cache_write_1h": "cache_write_1h_nano",
    "audio_input": "audio_input_nano",
    "output": "output_nano",
    "reasoning": "reasoning_nano",
    "audio_output": "audio_output_nano",
}


class Rates(BaseModel):
    """Prices per million tokens of each class. None: not known, or without a price of its own.

    `cache_write` is for minutes, `cache_write_1h` for an hour. `output_thinking`: every output token of an answer that thinks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    input: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    output: Amount | None = None
    reasoning: Amount | None = None
    output_thinking: Amount | None = None
    audio_input: Amount | None = None
    audio_output: Amount | None = None
    image_input: Amount | None = None


CLASSES: Final = tuple(Rates.model_fields)


class Tier(Rates):
    """The prices of requests with more input tokens than `above_input_tokens`, and more output than `above_output_tokens` if given."""

    above_input_tokens: int = Field(ge=0, le=100_000_000, strict=True)
    above_output_tokens: int | None = Field(default=None, gt=0, le=100_000_000, strict=True)


class ListPrice(Rates):
    """A seller's list price in one currency and region, at the hours of `schedule` if there is one. `seller` None: the maker itself."""

    seller: Annotated[str, Field(pattern=SELLER_PATTERN)] | None = None
    currency: Literal["CNY", "USD"]
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    schedule: Note | None = None
    tiers: tuple[Tier, ...] = Field(default=(), max_length=TIERS_MAX)
    note: Note | None = None
    valid_from: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None = None
    source: Note
    date: Note

    @property
    def key(self) -> tuple[str, str, str, str]:
        """By what a price replaces an earlier one: seller, currency, region, schedule."""
        return self.seller or "", self.currency, self.region, self.schedule or ""


def amount_per_million(per_token: Decimal) -> str:
    """A price per token as a decimal text per million tokens. Raises `ValueError` for what is no price, with the reason."""
    if not per_token.is_finite():
        raise ValueError("a price is a number")
    if per_token < 0:
        raise ValueError("a price is not negative")
    exponent = per_token.as_tuple().exponent
    # Two decimals too many are left by the multiplication; a longer fraction comes from a float that was written out.
    if not isinstance(exponent, int) or exponent < -18 or per_token.adjusted() > 2:
        raise ValueError(
            "a price has at most 12 decimals per million tokens, and at most 9 digits before them"
        )
    return plain_decimal(per_token * 1_000_000)


def plain_decimal(value: Decimal) -> str:
    """A decimal without an exponent and without trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


def price_of(
    prices: tuple[ListPrice, ...], seller: str | None, region: str | None, usd_yuan: str | None
) -> ListPrice | None:
    """The seller's list price that counts for a deployment; `seller` None is the maker itself. None if no price can be used.

    A price in yuan is preferred; one in dollars counts only if the operator has declared the rate. `region` is a deployment's (`cn-sh`):
    prices of its beginning count first. Of prices by the hour the dearest counts, so that a cost is not understated.
    """
    usable = [
        price
        for price in prices
        if price.seller == seller
        and (price.currency == "CNY" or usd_yuan is not None)
        and price.input is not None
    ]
    if not usable:
        return None
    first = (region or "cn").partition("-")[0]
    return min(
        usable, key=lambda price: (price.region != first, price.currency != "CNY", -Decimal(price.input or 0))
    )


def paid_price(price: ListPrice, usd_yuan: str | None) -> Price:
    """A list price as nano yuan per token, each rounded up to a whole nano. Prices by tier are those of the first tier."""
    assert price.currency == "CNY" or usd_yuan is not None, "dollars need a declared rate"
    rate = Decimal(1) if price.currency == "CNY" else Decimal(usd_yuan or 0)
    found: dict[str, int] = {}
    for name, paid_name in _PAID_CLASSES.items():
        amount = getattr(price, name)
        if amount is not None:
            nano = Decimal(amount) * rate * _NANO_PER_MILLIONTH
            found[paid_name] = int(nano.to_integral_value(rounding=ROUND_CEILING))
    return Price.model_validate(found)


def price_text(price: ListPrice) -> str:
    """A list price with its origin, for people: amounts per million tokens."""
    amounts = ", ".join(
        f"{name} {getattr(price, name)}" for name in CLASSES if getattr(price, name) is not None
    )
    at = " ".join(part for part in (price.seller, price.currency, price.region, price.schedule) if part)
    tiers = "".join(f"; {_tier_text(tier)}" for tier in price.tiers)
    since = f", valid from {price.valid_from}" if price.valid_from else ""
    note = f"; {price.note}" if price.note else ""
    return f"{at}: {amounts}{tiers}{note} ({price.source}, {price.date}{since})"


def _tier_text(tier: Tier) -> str:
    amounts = ", ".join(
        f"{name} {getattr(tier, name)}" for name in CLASSES if getattr(tier, name) is not None
    )
    beyond = f" and {tier.above_output_tokens} output" if tier.above_output_tokens else ""
    return f"above {tier.above_input_tokens} input tokens{beyond}: {amounts}"


_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def source_date(price: ListPrice) -> str:
    """The date of a price's source: the one in its text if there is one, else the text."""
    dated = _DATE.findall(price.date)
    return dated[-1] if dated else price.date
