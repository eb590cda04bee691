"""What becomes of an attempt whose client has gone: read to its end in the background, up to its first event, or cut.

Whoever hangs up before the usage event must not pay less than who waits for it. So what comes to its end soon is read
to its end, and charged as complete: an answer that is not streamed (`drain_s` at most), a stream that has stopped or
has at most `drain_tokens` of its maximum left. Anything longer is cut, for the operator does not want to pay for text
that nobody reads; unless the account's loss budget of today is spent: then every answer is read to its end.
"""

from typing import Final, Literal

from tokenworks.gateway.request.state import AnsweredAttempt
from tokenworks.gateway.shared import Shared

Drain = Literal["whole", "cut"]
# A stream that has stopped waits this long for its usage event.
USAGE_WAIT_S: Final = 10
# A chunk with a finish reason and no content is kept back from the client for the usage event, so long at most.
STOP_WAIT_S: Final = 2


def drain_of(shared: Shared, attempt: AnsweredAttempt) -> Drain:
    """How far the upstream of an attempt without a client is read."""
    meter = attempt.meter
    streams = attempt.request.parsed.stream
    if not streams or (meter is not None and meter.stopped) or _is_spent(shared, attempt):
        return "whole"
    return "whole" if tokens_left(attempt) <= shared.settings.drain_tokens else "cut"


def _is_spent(shared: Shared, attempt: AnsweredAttempt) -> bool:
    """Whether the account may lose nothing more today."""
    return shared.risk.spent(attempt.request.user.account_id)


def tokens_left(attempt: AnsweredAttempt) -> int:
    """What a stream can still make, as far as it is known: its maximum less what was shown."""
    request, meter = attempt.request, attempt.meter
    most = request.need.output_tokens
    if request.maximum is not None:
        most = min(most, request.maximum * request.parsed.choices)
    return most if meter is None else max(0, most - meter.text_tokens())


def drain_until_s(shared: Shared, attempt: AnsweredAttempt) -> float:
    """The monotonic second at which a drain is given up."""
    if _is_spent(shared, attempt):
        return attempt.request.began_s + shared.settings.request_timeout_s
    return shared.loop.time() + shared.settings.drain_s


def name_leaving(attempt: AnsweredAttempt, drain: Drain) -> str:
    """The counter (`FREE_RIDERS`) of a client that left so."""
    if not attempt.request.parsed.stream:
        return "left_unstreamed"
    if not attempt.request.sent:
        return "left_before_content"
    return "left_near_the_end" if drain == "whole" else "left_in_content"
