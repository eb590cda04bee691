"""Why a request is refused where the reason is in the snapshot or in the account."""

from typing import Final

from tokenworks.charging import NOBODY, Limit, Shortage
from tokenworks.charging import wire as charging_wire
from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.kernel import format_money

CUT: Final = Refusal(503, "shutting_down", "this server ends: try again, another one takes it", 1)


def no_route(snapshot: Snapshot, asked: str, model: str, protocol: str) -> Refusal:
    if model in snapshot.models:
        spoken = sorted(
            {
                p
                for place in snapshot.places
                if place.deployment.model == model
                for p in place.deployment.protocols
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


def not_found(path: str, meant: str | None) -> Refusal:
    """No route; where the path looks like one, which."""
    if meant is not None:
        base = "/v1" if not meant.startswith("/v1/messages") else ""
        where = f"a base URL ends in {base or 'the host'} here"
        return Refusal(404, "not_found", f"there is no {path} here: it is {meant}; {where}")
    return Refusal(
        404,
        "not_found",
        f"there is no {path} here: POST /v1/chat/completions, /v1/responses, /v1/messages, /v1/completions, /v1/embeddings; GET /v1/models",
    )


_LIMITED: Final = ("requests at once", "requests a minute", "tokens a minute")


def over_limit(scope: str, limit: Limit, what: int, wait_ms: int) -> Refusal:
    """A protective limit is reached: which, and when there is room again. Or nobody says whether it is."""
    if what == NOBODY:
        return Refusal(503, "recorder_away", "the limits can't be asked for now", 1)
    most = (limit.streams_max, limit.requests_per_min, limit.tokens_per_min)[what]
    seconds = max(1, -(-wait_ms // 1000))
    return Refusal(
        429,
        "rate_limited",
        f"over the limit of {most} {_LIMITED[what]} of this {scope}: try again in {seconds} s",
        seconds,
    )


_CAUSES: Final = {
    "payment": "a bill is overdue",
    "operator": "by the operator",
    "fraud": "for suspected fraud",
    "lost_phone": "its phone is lost",
    "own_wish": "by its own wish",
}


def suspended(user: KeyEntry) -> Refusal:
    """The subscriber is not served at all, whatever it has left."""
    causes = ", ".join(_CAUSES.get(cause, cause) for cause in user.suspended_by)
    return Refusal(403, "account_suspended", f"the subscriber is suspended: {causes}")


def _units(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _payg(user: KeyEntry) -> str:
    """Why pay-as-you-go did not buy what lacks, where there is any."""
    if user.payg is None:
        return ""
    state, cap_nano = user.payg
    return {
        "open": f"; pay-as-you-go buys up to {format_money(cap_nano)} yuan a month, and that (or the credit limit) is reached",
        "locked": "; pay-as-you-go is locked",
        "no_consent": "; going on from the plan to pay-as-you-go needs consent (spill-over)",
    }[state]


def no_hold(verdict: int, user: KeyEntry, shortage: Shortage | None = None) -> Refusal:
    """`shortage`: of a request that was not begun, with the verdict that nothing is left."""
    if verdict == charging_wire.NOTHING_LEFT and user.suspended_by:
        return suspended(user)
    if verdict == charging_wire.NOTHING_LEFT:
        url = user.policy.top_up_url
        where = f" at {url}" if url else ""
        todo = f"order a plan or a top-up{where}, or ask for fewer tokens"
        if shortage is None:
            more = " (or what a cap leaves to this key or member)" if user.cap_ids else ""
            return Refusal(
                402, "nothing_left",
                f"what the account has left{more} does not cover this request{_payg(user)}: {todo}", top_up_url=url,
            )  # fmt: skip
        unit, needed, left = shortage.unit, shortage.needed, shortage.left
        if shortage.cap_left is not None and (unit != "token" or shortage.cap_left < left):
            # The cap is what lacks: whoever set it can raise it, and buying changes nothing.
            unit, left, todo = (
                "token",
                shortage.cap_left,
                "raise the cap of this key or member, or ask for fewer tokens",
            )
            said = f"the cap of this key or member leaves {_units(left, unit)}"
        else:
            said = f"{_units(left, unit)} {'is' if left == 1 else 'are'} left{_payg(user)}"
        return Refusal(
            402, "nothing_left", f"this request needs at least {_units(needed, unit)}, and {said}: {todo}",
            top_up_url=url, shortage=(unit, needed, left),
        )  # fmt: skip
    if verdict >= charging_wire.LATER:
        seconds = verdict - charging_wire.LATER
        return Refusal(
            429, "allowance_used_up",
            f"the plan's allowance for now is used up: the next comes back in {seconds} s",
            seconds,
        )  # fmt: skip
    if verdict == charging_wire.AWAY:
        return Refusal(503, "database_away", "the balance can't be asked for now", 1)
    return Refusal(
        503, "granted_elsewhere", "what is left is granted to another worker or host just now: try again", 1
    )
