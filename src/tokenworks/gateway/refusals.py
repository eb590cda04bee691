"""Why a request is refused where the reason is in the snapshot or in the account."""

from typing import Final

from tokenworks.charging import Limit
from tokenworks.charging import wire as charging_wire
from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.snapshot import Snapshot

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
    """A protective limit is reached: which, and when there is room again."""
    most = (limit.streams_max, limit.requests_per_min, limit.tokens_per_min)[what]
    seconds = max(1, -(-wait_ms // 1000))
    return Refusal(
        429,
        "rate_limited",
        f"over the limit of {most} {_LIMITED[what]} of this {scope}: try again in {seconds} s",
        seconds,
    )


def no_hold(verdict: int, user: KeyEntry) -> Refusal:
    if verdict == charging_wire.NOTHING_LEFT:
        more = " (or what a cap leaves to this key or member)" if user.cap_ids else ""
        url = user.policy.top_up_url
        where = f" at {url}" if url else ""
        return Refusal(
            402, "nothing_left",
            f"what the account has left{more} does not cover this request: order a plan or a top-up{where}, or ask for fewer tokens",
            top_up_url=url,
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
