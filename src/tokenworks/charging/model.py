"""Holds and usage records, pure: what a request may cost in a bucket, how a record is made and read.

Quantities are integers in the bucket's unit (thousandths of a token, call or credit).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import msgspec

from tokenworks.catalog import TOKEN_CLASSES, Counts, Weights
from tokenworks.charging.messages import (
    Attempt,
    BucketTerms,
    CountedBy,
    LegacyUsageRecord,
    Loss,
    Need,
    Part,
    State,
    UsageRecord,
)

# Thousandths of a token, call or credit.
PER_UNIT: Final = 1000
# The rate version of a cap, which counts every token as one, whatever it costs; requests are free.
CAP_RATE: Final = "cap"
# Prefix of the model's name if the request is not a prompt (its last item is a tool's result). No model's name begins with it.
FOLLOW_UP: Final = "+"
# The grant id of what costs nothing and so uses no grant.
NO_GRANT: Final = "0" * 32
WHOLE_UNITS: Final = frozenset({"call", "prompt"})
CAP_WEIGHTS: Final = Weights(0, *[PER_UNIT] * len(TOKEN_CLASSES))

RateLookup = Callable[[str, str], tuple[str, Weights] | None]
"""(rate version, model) -> (model class, weights), or None if the rate card does not have the model."""


# What an account must be able to pay before a count of tokens, which costs nothing, so that nothing is bought for it either. No other
# request needs so little.
COUNT_NEED: Final = Need(1, 1, 0)
NO_NEED: Final = Need(0, 0, 0)


@dataclass(frozen=True, slots=True)
class HoldRate:
    """The most that a request, an input token and an output token can cost in one bucket."""

    request: int
    input_token: int
    output_token: int
    # The bucket counts requests: it pays for a whole request, or for nothing of it.
    whole: bool
    weights: Weights
    # The weights of the token classes as a plain tuple, for the hot path.
    class_weights: tuple[int, ...]


LOSS_CAUSES: Final[dict[str, str]] = {
    "beyond_hold": "more than was held, and nothing was left of the account when it was settled",
    "beyond_maximum": "output beyond the maximum that the upstream was sent",
    "implausible": "reported beyond what an honest answer of its kind can have",
    "client_gone": "the client left, and the plan charges nothing for it",
    "upstream_error": "the upstream broke off, and the plan charges nothing for it",
    "upstream_timeout": "the upstream fell silent, and the plan charges nothing for it",
    "worker_lost": "the worker died, and the hold did not cover what it had reported",
    "failed_attempt": "an attempt that failed or that another one replaced, though the upstream produced",
    "no_memory": "the worker had no room for an answer that was produced",
    "response_too_large": "an answer beyond response_bytes_max",
    "empty_answer": "an answer without content, for which the plan charges nothing",
    "content_filtered": "an answer that the provider's filter ended, for which the plan charges nothing",
    "cache_hit": "input that the provider had cached, for which the plan charges nothing",
    "late": "settled after its grant was written off, when its bucket had nothing left",
    "unnamed": "recorded by a release that named no causes",
}
"""Why the operator bears what was produced: cause -> its meaning. `ledger verify` refuses any other cause."""


def usage_record(
    attempt: Attempt,
    *,
    state: State,
    reason: str,
    counted_by: CountedBy,
    ended_ms: int,
    first_byte_ms: int | None,
    latency_ms: int,
    counts: Counts,
    provider_total: int | None,
    parts: list[Part],
    loss: list[Loss],
    flags: list[str],
    upstream_id: str | None,
) -> UsageRecord:
    """The record of an attempt; the caller sets the fields that few records have. The Struct is called with positional arguments, as
    CPython needs 6 µs for a call with more than 16 names.
    """
    return UsageRecord(
        attempt.account_id,
        attempt.usage_id,
        attempt.request_id,
        attempt.attempt_no,
        attempt.key_id,
        attempt.member_id,
        attempt.protocol,
        attempt.model,
        attempt.deployment,
        state,
        reason,
        counted_by,
        attempt.started_ms,
        ended_ms,
        first_byte_ms,
        latency_ms,
        counts,
        provider_total,
        parts,
        loss,
        flags,
        upstream_id,
    )


encode_record: Callable[[UsageRecord], bytes] = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UsageRecord).decode
_decode_before: Final = msgspec.json.Decoder(LegacyUsageRecord).decode


def decode_record(text: bytes) -> UsageRecord:
    """Decode a record of a journal, of this release or an earlier one. Raises `msgspec.DecodeError`."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        before = _decode_before(text)
    values = {name: getattr(before, name) for name in UsageRecord.__struct_fields__}
    return UsageRecord(**values | {"loss": [] if before.loss is None else [Loss("unnamed", *before.loss)]})


class LossShown(TypedDict):
    """A loss as people and programs read it. `counts` has only the token classes that lost something."""

    cause: str
    requests: int
    counts: dict[str, int]


def losses_of(row: Sequence[object] | None) -> list[Loss]:
    """The losses in a row of usage. A host of an earlier release that still runs writes [requests, [tokens]], without a cause."""
    if row and not isinstance(row[0], list):
        row = [["unnamed", *row]]
    return msgspec.convert(row or (), list[Loss])


def losses_shown(row: Sequence[object] | None) -> list[LossShown]:
    """The losses in a row of usage, for people and programs."""
    return [
        {
            "cause": cause,
            "requests": requests,
            "counts": {name: count for name, count in counts._asdict().items() if count},
        }
        for cause, requests, counts in losses_of(row)
    ]


def spending_order(terms: BucketTerms) -> tuple[int, int, str]:
    """Buckets are spent by priority, then expiry, then id."""
    return (terms.priority, terms.valid_until_ms or 2**62, terms.bucket_id)


def hold_rate(terms: BucketTerms, lookup: RateLookup, model: str) -> HoldRate | None:
    """What a request for `model` costs at most in a bucket, or None if the bucket may not pay for it."""
    if terms.kind == "cap":
        weights = CAP_WEIGHTS
    else:
        found = lookup(terms.rate_version, model.removeprefix(FOLLOW_UP))
        if found is None or ("*" not in terms.model_classes and found[0] not in terms.model_classes):
            return None
        weights = found[1]
        if terms.unit == "prompt" and model.startswith(FOLLOW_UP):
            weights = weights._replace(request=0)
    return HoldRate(
        weights.request,
        weights.most_input,
        weights.most_output,
        terms.unit in WHOLE_UNITS,
        weights,
        tuple(weights[1:]),
    )


def is_nothing(need: Need) -> bool:
    return not (need.requests or need.input_tokens or need.output_tokens)


def cover(rate: HoldRate, available: int, need: Need) -> tuple[int, Need]:
    """How much of `need` a bucket with `available` can hold: the quantity, and what is left to be held in other buckets.

    Whole requests and tokens only: the request first, then input, then output. A bucket that counts requests pays for no remainder of a
    request that another bucket began to pay. A bucket that counts tokens takes the request only together with a token.
    """
    if rate.whole and not need.requests:
        return 0, need
    requests = need.requests if not rate.request else min(need.requests, available // rate.request)
    taken = requests * rate.request
    if requests < need.requests:
        return taken, Need(need.requests - requests, need.input_tokens, need.output_tokens)
    inputs = (
        need.input_tokens
        if not rate.input_token
        else min(need.input_tokens, (available - taken) // rate.input_token)
    )
    if not inputs and need.input_tokens:
        return 0, need
    taken += inputs * rate.input_token
    if inputs < need.input_tokens:
        return taken, Need(0, need.input_tokens - inputs, need.output_tokens)
    outputs = (
        need.output_tokens
        if not rate.output_token
        else min(need.output_tokens, (available - taken) // rate.output_token)
    )
    if not inputs and not outputs and need.output_tokens and not rate.whole:
        return 0, need
    taken += outputs * rate.output_token
    return taken, Need(0, 0, need.output_tokens - outputs)


def most(weights: Weights, need: Need) -> int:
    """The most that `need` can cost with these weights."""
    return (
        need.requests * weights.request
        + need.input_tokens * weights.most_input
        + need.output_tokens * weights.most_output
    )


def cost(rate: HoldRate, need: Need) -> int:
    """The quantity of one bucket that all of `need` holds."""
    return (
        need.requests * rate.request
        + need.input_tokens * rate.input_token
        + need.output_tokens * rate.output_token
    )
