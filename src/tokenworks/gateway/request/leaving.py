"""The attempt of a client that has gone: it is read to its end in the background, or cut.

A client that hangs up before the usage event must not pay less than one that waits for it. So an answer that ends soon is read to its
end and charged as complete: one that is not streamed (for `drain_s` at most), a compaction, a stream that has stopped, or one with at
most `drain_tokens` of its maximum left. A longer stream is cut, since the operator would pay for text that no client reads. If the
account's loss budget of today is spent, every answer is read to its end.
"""

from typing import Final, Literal

from tokenworks.gateway.request.attempt import Attempt
from tokenworks.gateway.request.state import AnsweredAttempt
from tokenworks.gateway.shared import Shared

Drain = Literal["whole", "cut"]
# Time limit of a stopped stream's usage event.
USAGE_WAIT_S: Final = 10
# A chunk with a finish reason and no content is kept back from the client for the usage event for up to this long.
STOP_WAIT_S: Final = 2


def leave(shared: Shared, attempt: Attempt) -> None:
    """The client has gone while an upstream works for it: read the response to its end, or cut it."""
    request, drain, counters = attempt.request, drain_of(shared, attempt), shared.stats.c
    counters["abandoned"] += 1
    counters[f"free_rider_{name_leaving(attempt, drain)}"] += 1
    if drain == "whole":
        counters["drained"] += 1
        # The client's connection has given the body's memory back, and a tokenizer may still need the body.
        shared.memory.force(request.address, len(request.body))
        request.kept_bytes += len(request.body)
        attempt.drain_until_s = drain_until_s(shared, attempt)
    else:
        attempt.leave()


def drain_of(shared: Shared, attempt: AnsweredAttempt) -> Drain:
    """How far the upstream is read for a client that has gone."""
    meter, compaction = attempt.meter, attempt.request.compaction
    streams = attempt.request.parsed.stream
    if compaction is not None:
        # The client has all of a vendor's compaction before the stream's end, and what was written for it is known at the end alone.
        return "whole"
    if not streams or (meter is not None and meter.stopped) or _is_spent(shared, attempt):
        return "whole"
    return "whole" if tokens_left(attempt) <= shared.settings.drain_tokens else "cut"


def _is_spent(shared: Shared, attempt: AnsweredAttempt) -> bool:
    """True if the account's loss budget of today is spent."""
    return shared.risk.spent(attempt.request.user.account_id)


def tokens_left(attempt: AnsweredAttempt) -> int:
    """The most tokens that a stream can still make: its maximum less the shown ones."""
    request, meter = attempt.request, attempt.meter
    tokens_max = request.need.output_tokens
    if request.maximum is not None:
        tokens_max = min(tokens_max, request.maximum * request.parsed.choices)
    return tokens_max if meter is None else max(0, tokens_max - meter.text_tokens())


def drain_until_s(shared: Shared, attempt: AnsweredAttempt) -> float:
    """The monotonic second at which the drain ends."""
    if _is_spent(shared, attempt):
        return attempt.request.began_s + shared.settings.request_timeout_s
    return shared.loop.time() + shared.settings.drain_s


def name_leaving(attempt: AnsweredAttempt, drain: Drain) -> str:
    """The counter (of `FREE_RIDERS`) for the way in which the client left."""
    if not attempt.request.parsed.stream:
        return "left_unstreamed"
    if not attempt.request.sent:
        return "left_before_content"
    return "left_near_the_end" if drain == "whole" else "left_in_content"
