"""Whether a place is well, from what was seen of it; and how many repeated attempts a bad hour may cost.

A circuit opens after so many failures in a row. A place that fails a good part of its requests without ever failing so many in
a row is an outlier: it is ejected for a while, longer each time. What comes back, or comes new to others, begins slowly: its
cache is cold, and it may not be well yet.

Two rests differ. A cool-down is this gateway's own guess: where no other place is left, one request may be tried earlier. A time
that the upstream named (Retry-After and its like) is kept exactly: until then the place gets no request and no health check,
and nothing shortens it. After either the next request is a trial, and its first good byte closes the circuit.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

FAILURES_TO_OPEN: Final = 5
COOL_DOWN_S: Final = 10.0
# An outlier fails this part of its last requests, counted over about so long, of which there are at least so many.
OUTLIER_SHARE: Final = 0.4
OUTLIER_REQUESTS_MIN: Final = 10.0
OUTLIER_TAU_S: Final = 30.0
EJECTION_S: Final = 30.0
EJECTION_MAX_S: Final = 300.0
# A place that was well for so long after its last ejection is taken for a new one.
FORGIVEN_S: Final = 600.0
# Slow start: one request at once, twice as many after each such time, and after so many times any number.
SLOW_START_S: Final = 2.0
SLOW_STARTS: Final = 8


class Health:
    """What was seen of one place. Times are monotonic seconds."""

    __slots__ = (
        "_bad",
        "_counted_s",
        "_good",
        "cool_until_s",
        "ejected_s",
        "ejections",
        "failures",
        "outstanding",
        "retry_after_until_s",
        "trial",
        "warm_from_s",
    )

    def __init__(self) -> None:
        self.outstanding = 0
        self.failures = 0
        self.cool_until_s = 0.0
        self.retry_after_until_s = 0.0
        self.trial = False
        self.ejections = 0
        self.ejected_s = 0.0
        self.warm_from_s: float | None = None
        self._good = 0.0
        self._bad = 0.0
        self._counted_s = 0.0

    def open(self, now_s: float) -> bool:
        """Whether the circuit is open: nothing is sent, but for one trial after the cool-down."""
        return self.failures >= FAILURES_TO_OPEN and (now_s < self.cool_until_s or self.trial)

    def resting_s(self, now_s: float) -> float:
        """How many seconds of a time that the upstream named are left: until then nothing is sent at all. 0.0: none."""
        return max(0.0, self.retry_after_until_s - now_s)

    def began(self, now_s: float) -> None:
        self.outstanding += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.trial = True

    def ended(self) -> None:
        assert self.outstanding > 0
        self.outstanding -= 1
        self.trial = False

    def succeeded(self, now_s: float) -> None:
        """The first good byte of an answer: the circuit closes, without waiting for the answer's end.

        An answer that was asked for before the upstream named a time does not shorten that time.
        """
        self._good += 1.0
        self.trial = False
        if self.failures and now_s >= self.retry_after_until_s:
            if self.failures >= FAILURES_TO_OPEN:
                self.warm_from_s = now_s
            self.failures = 0
        if self._bad:
            self._count(now_s)
            if self._bad < 0.5 and now_s - self.ejected_s > FORGIVEN_S:
                self._bad, self.ejections = 0.0, 0

    def failed(self, now_s: float, cool_down_s: float = COOL_DOWN_S) -> None:
        self._count(now_s)
        self._bad += 1.0
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN and now_s >= self.retry_after_until_s:
            self.cool_until_s = max(self.cool_until_s, now_s + cool_down_s)

    def _count(self, now_s: float) -> None:
        decay = math.exp(-max(0.0, now_s - self._counted_s) / OUTLIER_TAU_S)
        self._counted_s = now_s
        # What was good before anything was bad was never decayed: no more of it than the time would hold.
        self._good = min(self._good, 1000.0) * decay
        self._bad *= decay

    def is_outlier(self) -> bool:
        seen = self._good + self._bad
        return seen >= OUTLIER_REQUESTS_MIN and self._bad >= OUTLIER_SHARE * seen

    def rest(self, now_s: float, seconds: float) -> None:
        """The upstream named a time (Retry-After): the circuit opens at once, for exactly that long."""
        self.failures = max(self.failures, FAILURES_TO_OPEN)
        self.cool_until_s = self.retry_after_until_s = max(self.retry_after_until_s, now_s + seconds)

    def cool_down(self, now_s: float, seconds: float) -> None:
        """No time was named: the circuit opens at once, for that long or until no other place is left."""
        self.failures = max(self.failures, FAILURES_TO_OPEN)
        if now_s >= self.retry_after_until_s:
            self.cool_until_s = max(self.cool_until_s, now_s + seconds)

    def eject(self, now_s: float) -> float:
        """For how long."""
        seconds = min(EJECTION_MAX_S, EJECTION_S * float(1 << min(self.ejections, 10)))
        self.ejections += 1
        self.ejected_s = now_s
        self._good = self._bad = 0.0
        self.cool_down(now_s, seconds)
        return seconds

    def begin_slowly(self, now_s: float) -> None:
        self.warm_from_s = now_s

    def takes(self, now_s: float) -> int | None:
        """How many requests at once it takes while it begins slowly; None: any number."""
        if self.warm_from_s is None:
            return None
        step = int((now_s - self.warm_from_s) / SLOW_START_S)
        if step >= SLOW_STARTS:
            self.warm_from_s = None
            return None
        return 1 << max(0, step)


def eject_outlier(place: Health, peers: Sequence[Health], now_s: float) -> bool:
    """Eject a place that fails much more than it may, while at least half of its peers are well."""
    if not place.is_outlier() or place.open(now_s):
        return False
    resting = sum(peer.open(now_s) for peer in peers if peer is not place)
    if 2 * (resting + 1) > len(peers):
        return False
    place.eject(now_s)
    return True


class RetryBudget:
    """Of the requests of the last seconds, a part may be tried once more, and a few in any case.

    So that a bad hour does not become a worse one: where everything fails, attempts are `RETRY_PART` more than requests, and not
    several times as many (Finagle's and Envoy's retry budgets are alike).
    """

    RETRY_PART: Final = 0.2
    WINDOW_S: Final = 10

    __slots__ = ("_least", "_requests", "_retries", "_second")

    def __init__(self, retries_per_s: int) -> None:
        self._least = retries_per_s * self.WINDOW_S
        self._second = -1
        self._requests: deque[int] = deque([0], maxlen=self.WINDOW_S)
        self._retries: deque[int] = deque([0], maxlen=self.WINDOW_S)

    def _turn(self, now_s: float) -> None:
        second = int(now_s)
        passed = second - self._second
        if passed <= 0:
            return
        self._second = second
        for _ in range(min(passed, self.WINDOW_S)):
            self._requests.append(0)
            self._retries.append(0)

    def request(self, now_s: float) -> None:
        """A request's first attempt."""
        if int(now_s) != self._second:
            self._turn(now_s)
        self._requests[-1] += 1

    def may_retry(self, now_s: float) -> bool:
        """Whether one more attempt is in the budget; it is spent then."""
        self._turn(now_s)
        most = self.RETRY_PART * sum(self._requests) + self._least
        if sum(self._retries) >= most:
            return False
        self._retries[-1] += 1
        return True
