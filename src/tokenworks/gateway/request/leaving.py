"""What becomes of an attempt whose client has gone: read to its end in the background, up to its first event, or cut.

Whoever hangs up before the usage event must not pay less than who waits for it. So what comes to its end soon is read
to its end, and charged as complete: an answer that is not streamed (`drain_s` at most), a stream that has stopped or
has at most `drain_tokens` of its maximum left. Anything longer is cut, for the operator does not want to pay for text
that nobody reads; unless the account's loss budget of today is spent: then every answer is read to its end.
"""

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from tokenworks.gateway.request.exchange import Exchange

Drain = Literal["whole", "cut"]
# A stream that has stopped waits this long for its usage event.
USAGE_WAIT_S: Final = 10
# A chunk with a finish reason and no content is kept back from the client for the usage event, so long at most.
STOP_WAIT_S: Final = 2


def drain_of(exchange: "Exchange") -> Drain:
    """How far the upstream of an exchange without a client is read."""
    meter = exchange.meter
    if not exchange.parsed.stream or (meter is not None and meter.stopped) or _is_spent(exchange):
        return "whole"
    return "whole" if tokens_left(exchange) <= exchange.shared.settings.drain_tokens else "cut"


def _is_spent(exchange: "Exchange") -> bool:
    """Whether the account may lose nothing more today."""
    assert exchange.user is not None
    return exchange.shared.risk.spent(exchange.user.account_id)


def tokens_left(exchange: "Exchange") -> int:
    """What a stream can still make, as far as it is known: its maximum less what was shown."""
    meter = exchange.meter
    most = exchange.need.output_tokens
    if exchange.maximum is not None:
        most = min(most, exchange.maximum * exchange.parsed.choices)
    return most if meter is None else max(0, most - meter.text_tokens())


def drain_until_s(exchange: "Exchange") -> float:
    """The monotonic second at which a drain is given up."""
    shared = exchange.shared
    if _is_spent(exchange):
        return exchange.began_s + shared.settings.request_timeout_s
    return shared.loop.time() + shared.settings.drain_s


def name_leaving(exchange: "Exchange", drain: Drain) -> str:
    """The counter (`FREE_RIDERS`) of a client that left so."""
    if not exchange.parsed.stream:
        return "left_unstreamed"
    if not exchange.sent:
        return "left_before_content"
    return "left_near_the_end" if drain == "whole" else "left_in_content"
