"""The finish of an attempt whose worker is gone."""

from typing import Final

from tokenworks.catalog import Counts, split, weights_of
from tokenworks.charging.messages import Amount, Finish, HeldAmount, Loss, OpenAttempt, Part
from tokenworks.charging.model import encode_record, usage_record

OPEN_ATTEMPTS_MAX: Final = 1_000_000
WORKER_LOST: Final = "worker_lost"


def interrupted(attempt: OpenAttempt, reason: str) -> Finish | None:
    """The finish of an attempt whose worker is gone, charged from its last progress; None if the attempt produced nothing.

    The charge comes out of what the attempt held, so nothing is overdrawn. Progress counts events with content, and each of them has
    at least one token, so the charge is never above the upstream's count.
    """
    counts = attempt.counts
    if counts is None or not any(counts):
        return None
    start = attempt.start
    balance = [held for held in start.held if held.kind == "balance"]
    beside = [held for held in start.held if held.kind != "balance"]
    parts: list[Part] = []
    shares, requests, left = split([(weights_of(held.weights), held.amount) for held in balance], counts)
    for held, share in zip(balance, shares, strict=False):
        parts.append(_part(held, share.amount, share.requests, share.counts))
    for held in beside:
        (share,), _, _ = split([(weights_of(held.weights), held.amount)], counts)
        parts.append(_part(held, share.amount, share.requests if held.kind == "window" else 0, share.counts))
    record = usage_record(
        start,
        state="interrupted",
        reason=reason,
        counted_by="progress",
        ended_ms=attempt.progress_ms,
        first_byte_ms=attempt.first_byte_ms,
        latency_ms=max(0, attempt.progress_ms - start.started_ms),
        counts=counts,
        provider_total=None,
        parts=parts,
        loss=[Loss(WORKER_LOST, requests, left)] if requests or any(left) else [],
        flags=[],
        upstream_id=None,
    )
    # A plan that counts prompts does not count a request that continues with a tool's result: its request weighs nothing.
    record.prompt = all(held.weights[0] for held in start.held if held.unit == "prompt")
    used = [Amount(part.bucket_id, part.grant_id, part.amount) for part in parts]
    return Finish(start.usage_id, start.account_id, used, encode_record(record))


def _part(held: HeldAmount, amount: int, requests: int, counts: Counts) -> Part:
    return Part(
        held.bucket_id, held.grant_id, held.rate_version, held.unit, held.kind, amount, requests, counts
    )
