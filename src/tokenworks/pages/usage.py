"""The usage page: balances, usage by day, the latest requests. A member sees the account's balances and its own requests."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.charging import Bucket
from tokenworks.kernel import format_tokens
from tokenworks.pages.family import cap_line
from tokenworks.pages.page import Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import name_of, span
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import BILLING_ZONE, day_of, last_day
from tokenworks.texts import Language
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)
DAYS_SHOWN: Final = 30
RECORDS_SHOWN: Final = 20
FORECAST_DAYS: Final = 7
_RING: Final = 2 * math.pi * 50


@router.get("/usage")
def usage(request: Request, services: RequestServices) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/usage")
    subscriber, language, now = visitor.subscriber, language_of(request, visitor), services.clock.now()
    since = now - timedelta(days=DAYS_SHOWN)
    days = services.ledger.usage_by_day(subscriber.account_id, since)
    buckets = [
        b for b in services.ledger.buckets(subscriber.account_id)
        if b.kind in {"balance", "window"} and b.closing is None and (b.valid_until is None or b.valid_until > now)
    ]  # fmt: skip
    names = _names(services, visitor, language)
    own_id = visitor.principal.member_id if visitor.is_member else None
    records, _ = services.ledger.usage_page(subscriber.account_id, None, own_id, 0, RECORDS_SHOWN)
    return render(
        request, services, "usage.html", "usage", "usage", visitor=visitor,
        rings=[_ring(b, names, days, now, language) for b in buckets if b.kind == "window" or b.total],
        # Usage of other members by day is shown to owner and admins only.
        bars=None if visitor.is_member else _bars(days, now), any_day=any(days.values()),
        records=[_record(r, language) for r in records], is_member=visitor.is_member,
        cap=_own_cap(services, visitor, language) if visitor.is_member else None,
    )  # fmt: skip


def _own_cap(services: Services, visitor: Visitor, language: Language) -> str:
    assert visitor.principal.member_id is not None
    member = services.members.by_id(visitor.principal.member_id)
    assert member is not None
    used = services.ledger.used_of_caps(visitor.subscriber.account_id, services.clock.now())
    return cap_line(member, used, language)


def _names(services: Services, visitor: Visitor, language: Language) -> dict[UUID, str]:
    return {
        product.product_id: name_of(services.offerings.sold(product.offering_version).offering, language)
        for product in services.orders.products(visitor.subscriber)
    }


def _ring(
    bucket: Bucket, names: dict[UUID, str], days: dict[str, int], now: datetime, language: Language
) -> dict[str, object]:
    words = WORDS[language]
    total = bucket.window_quantity or bucket.total
    part = min(1.0, bucket.left / total) if total else 0.0
    forecast = ""
    if bucket.kind == "balance" and bucket.unit == "token":
        recent = [days.get(day_of(now - timedelta(days=n)), 0) for n in range(FORECAST_DAYS)]
        a_day = sum(recent) // FORECAST_DAYS
        if not a_day:
            forecast = words["forecast_none"]
        else:
            ends = now + timedelta(days=min(36_500, bucket.left // 1000 // a_day))
            if bucket.valid_until is not None and ends >= bucket.valid_until:
                forecast = words["forecast_lasts"]
            else:
                forecast = words["forecast_ends"].format(day=day_of(ends))
    name = (
        words["any_token"] if bucket.product_id is None else names.get(bucket.product_id, words["any_token"])
    )
    if bucket.window_s is not None:
        name += f" · {span(bucket.window_s, language)}"
    # A window continues from one cycle into the next.
    until = "" if bucket.window_s is not None else words["no_expiry"]
    if bucket.valid_until is not None:
        until = words["until"].format(day=last_day(bucket.valid_until))
    return {
        "name": name,
        "percent": int(part * 100),
        "dash": f"{part * _RING:.1f}",
        "left": format_tokens(bucket.left, bucket.unit, language),
        "total": words["left_of"].format(total=format_tokens(total, bucket.unit, language)),
        "until": until,
        "forecast": forecast,
    }


def _bars(days: dict[str, int], now: datetime) -> list[dict[str, object]]:
    most = max(days.values(), default=0) or 1
    bars: list[dict[str, object]] = []
    for n in range(DAYS_SHOWN - 1, -1, -1):
        at = day_of(now - timedelta(days=n))
        tokens = days.get(at, 0)
        bars.append({"day": at, "short": at[5:], "tokens": f"{tokens:,}", "height": max(1 if tokens else 0, 85 * tokens // most)})  # fmt: skip
    return bars


def _record(record: Mapping[str, Any], language: Language) -> dict[str, object]:
    parts = [part for part in record["parts"] if part[4] == "balance"]
    tokens = sum(record[name] for name in TOKEN_CLASSES)
    return {
        "at": f"{record['ended_at'].astimezone(BILLING_ZONE):%m-%d %H:%M}",
        "model": record["model"],
        "tokens": f"{tokens:,}",
        "charged": [format_tokens(part[5], part[3], language) for part in parts] or ["0"],
        "interrupted": record["state"] != "complete",
    }
