"""The headers of protective limits on answers and refusals: OpenAI's `x-ratelimit-*` and Anthropic's `anthropic-ratelimit-*`.

They name the limit of the key, its member or its subscriber that is the nearest to its end, as this host's recorder counted it when it
admitted the request: hosts share a limit, so what is left is approximate. A minute slides, so a limit is whole again a minute
after its last request: the reset of an answer is a minute away, that of a refusal is the time until there is room.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from tokenworks.charging import Admission, Limit, LimitLeft

WINDOW_S: Final = 60
_REQUESTS: Final = 1
_TOKENS: Final = 2
_WORDS: Final = {_REQUESTS: "requests", _TOKENS: "tokens"}


def admitted_lines(admission: Admission, protocol: str, now_ms: int) -> bytes:
    """Header lines of an answer, by the limits under which its request was admitted. `now_ms`: civil time."""
    if len(admission.left) != len(admission.limits):
        return b""
    lines = b""
    for what in (_REQUESTS, _TOKENS):
        nearest = _nearest(admission.limits, admission.left, what)
        if nearest is not None:
            lines += _lines(what, nearest[0], nearest[1], WINDOW_S, protocol, now_ms)
    return lines


def refused_lines(limit: Limit, what: int, wait_ms: int, protocol: str, now_ms: int) -> bytes:
    """Header lines of a refusal. `what` of the limit is short: requests (1) or tokens (2) a minute; other limits have no header."""
    if what not in _WORDS:
        return b""
    most = limit.requests_per_min if what == _REQUESTS else limit.tokens_per_min
    return _lines(what, most, 0, max(1, -(-wait_ms // 1000)), protocol, now_ms)


def _nearest(limits: Sequence[Limit], left: Sequence[LimitLeft], what: int) -> tuple[int, int] | None:
    """(maximum, what is left) of the limit that has least left; None if no limit has such a maximum."""
    found: tuple[int, int] | None = None
    for limit, rest in zip(limits, left, strict=True):
        most, more = limit.requests_per_min, rest.requests
        if what == _TOKENS:
            most, more = limit.tokens_per_min, rest.tokens
        if most and (found is None or more < found[1]):
            found = most, more
    return found


def _lines(what: int, most: int, left: int, reset_s: int, protocol: str, now_ms: int) -> bytes:
    word = _WORDS[what]
    if protocol == "messages":
        at = datetime.fromtimestamp(now_ms // 1000, UTC) + timedelta(seconds=reset_s)
        begin = f"anthropic-ratelimit-{word}"
        return (
            f"{begin}-limit: {most}\r\n{begin}-remaining: {left}\r\n{begin}-reset: {at:%Y-%m-%dT%H:%M:%SZ}\r\n"
        ).encode()
    minutes, seconds = divmod(reset_s, 60)
    reset = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    return (
        f"x-ratelimit-limit-{word}: {most}\r\nx-ratelimit-remaining-{word}: {left}\r\nx-ratelimit-reset-{word}: {reset}\r\n"
    ).encode()
