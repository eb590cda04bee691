"""What is left of an account: its balances and windows, how long they last at this pace, and the usage of each day."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from tokenworks.charging import Bucket
from tokenworks.kernel import format_tokens
from tokenworks.pages.charts import Chart, Series, chart
from tokenworks.pages.page import Visitor
from tokenworks.pages.phrases import name_of, span
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import day_of, last_day
from tokenworks.texts import Language
from tokenworks.web.services import Services

DAYS_SHOWN: Final = 30
FORECAST_DAYS: Final = 7
# A balance is low when less than a tenth of it is left.
LOW_PERCENT: Final = 10
_RING: Final = 2 * math.pi * 50


class Balance(NamedTuple):
    """A bucket as pages show it. `dash`: the length of the ring's arc; `left_mtok`: of a balance of tokens, else 0."""

    name: str
    percent: int
    dash: str
    left: str
    total: str
    until: str
    forecast: str
    left_mtok: int

    @property
    def is_low(self) -> bool:
        """A window that is used up comes back by itself, so only balances of tokens, which have a forecast, count."""
        return self.percent < LOW_PERCENT and self.forecast != ""


def balances(
    services: Services, visitor: Visitor, days: dict[str, int], now: datetime, language: Language
) -> list[Balance]:
    """The balances and windows that requests may draw on now. `days`: tokens by day."""
    names = {
        product.product_id: name_of(services.offerings.sold(product.offering_version).offering, language)
        for product in services.orders.products(visitor.subscriber)
    }
    return [
        _balance(bucket, names, days, now, language)
        for bucket in services.ledger.buckets(visitor.subscriber.account_id)
        if bucket.kind in {"balance", "window"}
        and bucket.closing is None
        and (bucket.valid_until is None or bucket.valid_until > now)
        and (bucket.kind == "window" or bucket.total)
    ]


def pace(days: dict[str, int], now: datetime) -> int:
    """Tokens a day, on average over the last week."""
    return sum(days.get(day_of(now - timedelta(days=n)), 0) for n in range(FORECAST_DAYS)) // FORECAST_DAYS


def _balance(
    bucket: Bucket, names: dict[UUID, str], days: dict[str, int], now: datetime, language: Language
) -> Balance:
    words = WORDS[language]
    total = bucket.window_quantity or bucket.total
    part = min(1.0, bucket.left / total) if total else 0.0
    is_tokens = bucket.kind == "balance" and bucket.unit == "token"
    name = (
        words["any_token"] if bucket.product_id is None else names.get(bucket.product_id, words["any_token"])
    )
    if bucket.window_s is not None:
        name += f" · {span(bucket.window_s, language)}"
    # A window continues from one cycle into the next.
    until = "" if bucket.window_s is not None else words["no_expiry"]
    if bucket.valid_until is not None:
        until = words["until"].format(day=last_day(bucket.valid_until))
    return Balance(
        name, int(part * 100), f"{part * _RING:.1f}", format_tokens(bucket.left, bucket.unit, language),
        words["left_of"].format(total=format_tokens(total, bucket.unit, language)), until,
        _forecast(bucket, pace(days, now), now, language) if is_tokens else "", bucket.left if is_tokens else 0,
    )  # fmt: skip


def _forecast(bucket: Bucket, a_day: int, now: datetime, language: Language) -> str:
    words = WORDS[language]
    if not a_day:
        return words["forecast_none"]
    ends = now + timedelta(days=min(36_500, bucket.left // 1000 // a_day))
    if bucket.valid_until is not None and ends >= bucket.valid_until:
        return words["forecast_lasts"]
    return words["forecast_ends"].format(day=day_of(ends))


def days_chart(days: dict[str, int], now: datetime, language: Language) -> Chart:
    """The tokens of each of the last days."""
    words = WORDS[language]
    axis: Sequence[str] = [day_of(now - timedelta(days=n)) for n in range(DAYS_SHOWN - 1, -1, -1)]
    tokens = [days.get(day, 0) for day in axis]
    shown = [f"{count:,}" for count in tokens]
    return chart(
        "days", words["chart_days"], words["chart_day"], axis, [Series(words["tokens"], tokens, shown)]
    )
