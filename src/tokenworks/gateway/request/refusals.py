"""Refusals whose reason is in the snapshot or in the account."""

from collections.abc import Sequence
from typing import Final

from tokenworks.charging import NO_ANSWER, Limit, Shortage, Verdict
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.kernel import format_money

CUT: Final = Refusal(503, "shutting_down", "this server ends: try again, another one takes it", 1)


def no_route(snapshot: Snapshot, asked: str, model: str, protocol: str) -> Refusal:
    if model in snapshot.models:
        spoken = sorted(
            {
                p
                for view in snapshot.views
                if view.deployment.model == model
                for p in view.deployment.protocols
            }
        )
        return Refusal(
            404,
            "model_not_found",
            f"{asked} is not served over {protocol} here, but over {', '.join(spoken)}",
            param="model",
        )
    if snapshot.models:
        return Refusal(
            404,
            "model_not_found",
            f"there is no model {asked} here: GET /v1/models lists them",
            param="model",
        )
    return Refusal(503, "no_deployment", "no deployment is declared yet: tokenworks deployment add", 5)


def not_found(path: str, similar_route: str | None) -> Refusal:
    """The refusal of an unknown path. `similar_route`: the route that it resembles."""
    if similar_route is not None:
        base = "/v1" if not similar_route.startswith("/v1/messages") else ""
        where = f"a base URL ends in {base or 'the host'} here"
        return Refusal(404, "not_found", f"there is no {path} here: it is {similar_route}; {where}")
    return Refusal(
        404,
        "not_found",
        f"there is no {path} here: POST /v1/chat/completions, /v1/responses, /v1/messages, /v1/completions, /v1/embeddings; GET /v1/models",
    )


_LIMITED: Final = ("requests at once", "requests a minute", "tokens a minute")
_LIMITED_ZH: Final = ("并发请求数", "每分钟请求数", "每分钟词元数")


def over_limit(scope: str, limit: Limit, what: int, wait_ms: int) -> Refusal:
    """The refusal for a protective limit: which one, and when there is room again; or, by `what`, that the limits can't be asked for."""
    if what == NO_ANSWER:
        return Refusal(503, "recorder_away", "the limits can't be asked for now", 1)
    maximum = (limit.streams_max, limit.requests_per_min, limit.tokens_per_min)[what]
    seconds = max(1, -(-wait_ms // 1000))
    return Refusal(
        429,
        "rate_limited",
        f"over the limit of {maximum} {_LIMITED[what]} of this {scope}: try again in {seconds} s",
        seconds,
        zh=f"请求已达到限额（{_LIMITED_ZH[what]} {maximum:,}）：请在 {seconds} 秒后重试。",
    )


# Why an account is suspended and what to do, in English and Chinese.
_CAUSES: Final = {
    "payment": ("a bill is overdue, and service goes on once it is paid", "账单逾期未缴，缴清后自动恢复"),
    "operator": ("by the operator: ask its support", "由运营商暂停，请联系客服"),
    "fraud": ("for suspected fraud: ask the operator's support", "为保障账户安全而暂停，请联系客服核实"),
    "lost_phone": ("its phone was reported lost: ask the operator's support once it is found or replaced", "手机已挂失，找回或补卡后请联系客服恢复"),
    "own_wish": ("by its own wish: go on with it on the account's pages", "已按用户要求暂停，可在自助页面恢复"),
}  # fmt: skip


def suspended(user: KeyEntry) -> Refusal:
    """The refusal of a suspended subscriber, whatever its balance."""
    causes = [_CAUSES.get(cause, (cause, cause)) for cause in user.suspended_by]
    message = (
        f"the account of this key is suspended ({'; '.join(en for en, _ in causes)}). The key itself is good"
    )
    return Refusal(
        403,
        "account_suspended",
        message,
        zh=f"账户已暂停服务（{'；'.join(zh for _, zh in causes)}）。密钥本身有效。",
    )


def consent_missing(document: str) -> Refusal:
    message = (
        f"the account has not agreed to the {document}, or has withdrawn: agree again on its privacy page"
    )
    return Refusal(403, "consent_missing", message)


UNKNOWN_KEY: Final = Refusal(
    401, "invalid_api_key", "this API key was never issued here: check that it is whole, and of this works"
)
# Refusals of issued keys that are no longer valid.
_ENDED: Final = {
    "revoked": Refusal(401, "key_revoked", "this API key was revoked, or its member was removed from the account: use another one, or ask the account's owner for one"),
    "expired": Refusal(401, "key_expired", "this API key has expired: make a new one, or ask the account's owner for one"),
    "closed": Refusal(403, "account_closed", "the account of this API key is closed, so nothing is served or charged any more: use a key of another account, or ask the operator's support"),
}  # fmt: skip


def unusable_key(user: KeyEntry, lacking: Sequence[int], now_ms: int) -> Refusal | None:
    """The refusal of a key that was looked up; None for a valid key. `lacking`: peppers that this host does not have."""
    if user.known:
        has_expired = user.expires_s is not None and now_ms >= user.expires_s * 1000
        return _ENDED["expired"] if has_expired else None
    if user.ended is not None:
        return _ENDED[user.ended]
    if lacking:
        message = "this host lacks a secret of the works, so it can't tell whether this key is good: try again, another host can"
        return Refusal(503, "pepper_missing", message, 1)
    return UNKNOWN_KEY


def _units(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _payg(user: KeyEntry) -> str:
    """The reason why pay-as-you-go did not cover the shortage; "" if the plan has none."""
    if user.payg is None:
        return ""
    state, cap_nano = user.payg
    return {
        "open": f"; pay-as-you-go buys up to {format_money(cap_nano)} yuan a month, and that (or the credit limit) is reached",
        "locked": "; pay-as-you-go is locked",
        "no_consent": "; going on from the plan to pay-as-you-go needs consent (spill-over)",
    }[state]


_UNITS_ZH: Final = {"token": "词元", "call": "次调用", "prompt": "条提问", "credit": "点"}


def _nothing_left_zh(
    user: KeyEntry, url: str | None, shortage: tuple[str, int, int] | None, *, capped: bool
) -> str:
    """`shortage`: (unit, needed at least, left)."""
    todo = (
        "请提高该密钥或成员的限额，或减少请求的词元数"
        if capped
        else f"请订购套餐或加油包{f'（{url}）' if url else ''}，或减少请求的词元数"
    )
    more = "" if capped or user.payg is None else {
        "open": "；随用随付已达到本月上限或信用额度", "locked": "；随用随付已锁定", "no_consent": "；套餐用完后转随用随付需先同意",
    }[user.payg[0]]  # fmt: skip
    if shortage is None:
        return f"余额（或该密钥、成员的剩余限额）不足以完成本次请求{more}：{todo}。"
    unit, needed, left = shortage
    word = _UNITS_ZH.get(unit, unit)
    rest = f"该密钥或成员的限额仅剩 {left:,} {word}" if capped else f"仅剩 {left:,} {word}"
    return f"本次请求至少需要 {needed:,} {word}，{rest}{more}：{todo}。"


def no_hold(verdict: Verdict, user: KeyEntry, shortage: Shortage | None = None, back_s: int = 0) -> Refusal:
    """The refusal of a request without a hold. `shortage`: with the verdict that nothing is left; `back_s`: seconds until a used-up window
    has something left again.
    """
    if verdict == Verdict.NOTHING_LEFT and user.suspended_by:
        return suspended(user)
    if verdict == Verdict.NOTHING_LEFT:
        url = user.policy.top_up_url
        where = f" at {url}" if url else ""
        todo = f"order a plan or a top-up{where}, or ask for fewer tokens"
        if shortage is None:
            more = " (or what a cap leaves to this key or member)" if user.cap_ids else ""
            return Refusal(
                402, "nothing_left",
                f"what the account has left{more} does not cover this request{_payg(user)}: {todo}", top_up_url=url,
                zh=_nothing_left_zh(user, url, None, capped=False),
            )  # fmt: skip
        unit, needed, left = shortage.unit, shortage.needed, shortage.left
        capped = shortage.cap_left is not None and (unit != "token" or shortage.cap_left < left)
        if capped and shortage.cap_left is not None:
            # The cap is the shortage: to raise it helps, and an order does not.
            unit, left, todo = (
                "token",
                shortage.cap_left,
                "raise the cap of this key or member, or ask for fewer tokens",
            )
            message = f"the cap of this key or member leaves {_units(left, unit)}"
        else:
            message = f"{_units(left, unit)} {'is' if left == 1 else 'are'} left{_payg(user)}"
        return Refusal(
            402, "nothing_left", f"this request needs at least {_units(needed, unit)}, and {message}: {todo}",
            top_up_url=url, shortage=(unit, needed, left),
            zh=_nothing_left_zh(user, url, (unit, needed, left), capped=capped),
        )  # fmt: skip
    if verdict == Verdict.WINDOW_USED_UP:
        return Refusal(
            429, "allowance_used_up",
            f"the plan's allowance for now is used up: the next comes back in {back_s} s",
            back_s,
            zh=f"套餐在当前时段内的用量已用完：{back_s} 秒后恢复。",
        )  # fmt: skip
    if verdict == Verdict.AWAY:
        return Refusal(503, "database_away", "the balance can't be asked for now", 1)
    return Refusal(
        503, "granted_elsewhere", "what is left is granted to another worker or host just now: try again", 1
    )
