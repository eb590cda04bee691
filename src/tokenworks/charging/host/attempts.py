"""Attempts that are open on this host, and what an attempt costs whose worker is gone."""

from typing import Any, Final

from tokenworks.catalog import Counts, split, weights_of
from tokenworks.charging.model import Loss, Part, UsageRecord, encode_record

OPEN_ATTEMPTS_MAX: Final = 1_000_000
WORKER_LOST: Final = "worker_lost"


class OpenAttempt:
    """An attempt's start as it is in the journal, and the last progress that was reported."""

    __slots__ = ("counts", "first_byte_ms", "progress_ms", "start", "worker_id")

    def __init__(self, worker_id: str, start: list[Any]) -> None:
        self.worker_id = worker_id
        self.start = list(start)
        self.counts: Counts | None = None
        self.first_byte_ms: int | None = None
        self.progress_ms: int = start[9]

    def wire(self) -> list[Any]:
        return [self.worker_id, self.start, self.counts, self.first_byte_ms, self.progress_ms]


def attempt_from_wire(row: list[Any]) -> OpenAttempt:
    attempt = OpenAttempt(row[0], row[1])
    attempt.counts = None if row[2] is None else Counts(*row[2])
    attempt.first_byte_ms, attempt.progress_ms = row[3], row[4]
    return attempt


def interrupted(attempt: OpenAttempt, reason: str) -> list[Any] | None:
    """The finish (as on the wire) of an attempt whose worker is gone, charged from its last progress; None where it gave nothing.

    It is drawn from what the attempt held, so nothing is overdrawn; progress counts events with content, of which
    each has at least one token, so the charge is never above the upstream's count.
    """
    counts = attempt.counts
    if counts is None or not any(counts):
        return None
    start = attempt.start
    balance = [part for part in start[10] if part[4] == "balance"]
    beside = [part for part in start[10] if part[4] != "balance"]
    parts: list[Part] = []
    shares, requests, left = split([(weights_of(part[6]), part[5]) for part in balance], counts)
    for part, share in zip(balance, shares, strict=False):
        parts.append(_part(part, share.amount, share.requests, share.counts))
    for part in beside:
        (share,), _, _ = split([(weights_of(part[6]), part[5])], counts)
        parts.append(_part(part, share.amount, share.requests if part[4] == "window" else 0, share.counts))
    # A plan of prompts does not count what goes on with a tool's result: its request weighs nothing.
    prompt = all(part[6][0] for part in start[10] if part[3] == "prompt")
    loss = [Loss(WORKER_LOST, requests, left)] if requests or any(left) else []
    latency_ms = max(0, attempt.progress_ms - start[9])
    (
        usage_id,
        account_id,
        request_id,
        attempt_no,
        key_id,
        member_id,
        protocol,
        model,
        deployment,
        started_ms,
    ) = start[:10]
    record = UsageRecord(
        account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, "interrupted", reason,
        "progress", started_ms, attempt.progress_ms, attempt.first_byte_ms, latency_ms, counts, None, parts, loss, [], None, prompt,
    )  # fmt: skip
    used = [[part[0], part[1], part[5]] for part in parts]
    return [usage_id, account_id, used, encode_record(record)]


def _part(held: list[Any], amount: int, requests: int, counts: Counts) -> Part:
    return Part(held[0], held[1], held[2], held[3], held[4], amount, requests, counts)
