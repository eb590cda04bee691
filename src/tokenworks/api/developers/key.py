"""`GET /v1/key`: what is left to a key, its caps and limits, and what was used today and this month."""

from collections.abc import Sequence

from fastapi import APIRouter, Response

from tokenworks.api.developers.sums import drawn_shown, in_whole_units, sum_shown
from tokenworks.charging import Bucket, UsageSum
from tokenworks.subscriptions import KeyStanding
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.key_holders import CurrentKey, with_key
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/v1", tags=["developers"])
UNIT = "token"


def _bucket(bucket: Bucket) -> dict[str, object]:
    return without_none(
        {
            "unit": bucket.unit,
            "left": in_whole_units(bucket.left),
            "total": in_whole_units(bucket.window_quantity if bucket.window_s else bucket.total),
            "window_s": bucket.window_s,
            "model_classes": None if bucket.kind == "cap" else list(bucket.model_classes),
            "ends_at": instant(bucket.valid_until),
        }
    )


def _of_token(sums: Sequence[UsageSum] | None) -> object:
    return None if sums is None else in_whole_units(sum(found.drawn.get(UNIT, 0) for found in sums))


def _sums(sums: Sequence[UsageSum] | None) -> object:
    return None if sums is None else [sum_shown(found) for found in sums]


def _openrouter(standing: KeyStanding) -> dict[str, object]:
    """The fields that OpenRouter's clients read of `GET /api/v1/key`; amounts are tokens. `usage` is this month's; null without a sum."""
    own = standing.served.key.cap_bucket_id
    cap = next((bucket for bucket in standing.caps if bucket.bucket_id == own), None)
    rates = [limit.requests_per_min for _, limit in standing.limits if limit.requests_per_min]
    return {
        "label": standing.info.hint,
        "usage": _of_token(standing.key_month),
        "usage_daily": _of_token(standing.key_today),
        "usage_monthly": _of_token(standing.key_month),
        "limit": None if cap is None else in_whole_units(cap.total),
        "limit_remaining": None if cap is None else in_whole_units(cap.left),
        "is_free_tier": False,
        "is_provisioning_key": False,
        "rate_limit": {"requests": min(rates, default=-1), "interval": "60s"},
        "expires_at": instant(standing.info.expires_at),
    }


@router.get(
    "/key",
    summary="The key itself: what is left, caps, limits, and today's and this month's usage",
    **with_key(),
)
def key(services: RequestServices, holder: CurrentKey) -> Response:
    standing = services.key_standings.read(holder)
    info, payg = standing.info, holder.holder.payg
    content = {
        "object": "key",
        "data": _openrouter(standing),
        "id": str(info.key_id),
        "name": info.name,
        "member": str(holder.key.member_id),
        "models": None if holder.key.models is None else sorted(holder.key.models),
        "fallback_models": holder.key.fallbacks,
        "suspended_by": holder.holder.suspended_by,
        "balances": [_bucket(bucket) for bucket in standing.balances],
        "caps": [_bucket(bucket) for bucket in standing.caps],
        "limits": [
            without_none(
                {
                    "of": scope,
                    "requests_per_min": limit.requests_per_min or None,
                    "tokens_per_min": limit.tokens_per_min or None,
                    "requests_at_once": limit.streams_max or None,
                }
            )
            for scope, limit in standing.limits
        ],
        "pay_as_you_go": None
        if payg is None
        else {"state": payg[0], "month_max": {"unit": "CNY", "value": exact_amount(payg[1])}},
        "today": _sums(standing.today),
        "month": _sums(standing.month),
        "drawn_this_month": drawn_shown(standing.drawn_month),
        "as_of": instant(standing.now),
    }
    return json_response(content, headers={"Cache-Control": "no-store"})
