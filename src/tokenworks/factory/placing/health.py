"""Whether a deployment is healthy, from observed results; and how many retries an outage may cost.

A circuit opens after so many failures in a row. A deployment that fails a large part of its requests without so many failures in a
row is an outlier: it is ejected for some time, longer each time. A deployment that comes back, or is new beside others, gets a slow
start: its cache is cold, and it may not be healthy yet.

There are two kinds of pause. A cool-down is the gateway's own guess: if no other deployment is left, one request may be tried
earlier. A time that the upstream named (Retry-After and its like) is kept exactly: until then the deployment gets no request and no
health check, and nothing shortens it. After either pause the next request is a trial, and its first good byte closes the circuit.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

FAILURES_TO_OPEN: Final = 5
COOL_DOWN_S: Final = 10.0
# An outlier fails at least this share of its recent requests, of which there are at least OUTLIER_REQUESTS_MIN; older requests
# decay with the time constant OUTLIER_TAU_S.
OUTLIER_SHARE: Final = 0.4
OUTLIER_REQUESTS_MIN: Final = 10.0
OUTLIER_TAU_S: Final = 30.0
EJECTION_S: Final = 30.0
EJECTION_MAX_S: Final = 300.0
# After so long without failures since the last ejection, earlier ejections no longer count.
FORGIVEN_S: Final = 600.0
# Slow start: one request in flight, twice as many after every SLOW_START_S, and no limit after SLOW_STARTS steps.
SLOW_START_S: Final = 2.0
SLOW_STARTS: Final = 8


class Health:
    """The observed health of one deployment. Times are monotonic seconds."""

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
        """True if the circuit is open: no request is sent, except one trial after the cool-down."""
        return self.failures >= FAILURES_TO_OPEN and (now_s < self.cool_until_s or self.trial)

    def resting_s(self, now_s: float) -> float:
        """Seconds left of a time that the upstream named: until then nothing is sent at all. 0.0 if there is no such time."""
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
        """The first good byte of an answer closes the circuit; the answer need not have ended.

        An answer to a request that was sent before the upstream named a time does not shorten that time.
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
        # Before the first failure the good results do not decay, so their number is limited here.
        self._good = min(self._good, 1000.0) * decay
        self._bad *= decay

    def is_outlier(self) -> bool:
        seen = self._good + self._bad
        return seen >= OUTLIER_REQUESTS_MIN and self._bad >= OUTLIER_SHARE * seen

    def rest(self, now_s: float, seconds: float) -> None:
        """Open the circuit at once, for exactly the time that the upstream named (Retry-After)."""
        self.failures = max(self.failures, FAILURES_TO_OPEN)
        self.cool_until_s = self.retry_after_until_s = max(self.retry_after_until_s, now_s + seconds)

    def end_rest(self, now_s: float) -> None:
        """End a rest at once: the time was of a credential that the deployment no longer has. The next request is a trial."""
        self.cool_until_s = self.retry_after_until_s = min(self.retry_after_until_s, now_s)

    def cool_down(self, now_s: float, seconds: float) -> None:
        """Open the circuit at once for so long, or until no other deployment is left. The upstream named no time."""
        self.failures = max(self.failures, FAILURES_TO_OPEN)
        if now_s >= self.retry_after_until_s:
            self.cool_until_s = max(self.cool_until_s, now_s + seconds)

    def eject(self, now_s: float) -> float:
        """Open the circuit of an outlier. Returns for how many seconds."""
        seconds = min(EJECTION_MAX_S, EJECTION_S * float(1 << min(self.ejections, 10)))
        self.ejections += 1
        self.ejected_s = now_s
        self._good = self._bad = 0.0
        self.cool_down(now_s, seconds)
        return seconds

    def begin_slowly(self, now_s: float) -> None:
        self.warm_from_s = now_s

    def takes(self, now_s: float) -> int | None:
        """How many requests in flight the deployment takes during its slow start; None: no limit."""
        if self.warm_from_s is None:
            return None
        step = int((now_s - self.warm_from_s) / SLOW_START_S)
        if step >= SLOW_STARTS:
            self.warm_from_s = None
            return None
        return 1 << max(0, step)


def eject_outlier(health: Health, peers: Sequence[Health], now_s: float) -> bool:
    """Eject a deployment if it is an outlier, as long as at least half of its peers stay. Returns whether it was ejected."""
    if not health.is_outlier() or health.open(now_s):
        return False
    open_peers = sum(peer.open(now_s) for peer in peers if peer is not health)
    if 2 * (open_peers + 1) > len(peers):
        return False
    health.eject(now_s)
    return True


class RetryBudget:
    """How many retries are allowed: a share of the requests of the last seconds, and a few in any case.

    The budget keeps an outage from becoming an overload: if every request fails, there are `RETRY_PART` more attempts than requests
    and not several times as many (as the retry budgets of Finagle and Envoy).
    """

    RETRY_PART: Final = 0.2
    WINDOW_S: Final = 10

    __slots__ = ("_least", "_requests", "_retries", "_second")

    def __init__(self, retries_per_s: int) -> None:
        self._least = retries_per_s * self.WINDOW_S
        self._second = -1
        self._requests: deque[int] = deque([0], maxlen=self.WINDOW_S)
        self._retries: deque[int] = deque([0], maxlen=self.WINDOW_S)

    def _advance(self, now_s: float) -> None:
        second = int(now_s)
        passed = second - self._second
        if passed <= 0:
            return
        self._second = second
        for _ in range(min(passed, self.WINDOW_S)):
            self._requests.append(0)
            self._retries.append(0)

    def request(self, now_s: float) -> None:
        """Count the first attempt of a request."""
        if int(now_s) != self._second:
            self._advance(now_s)
        self._requests[-1] += 1

    def may_retry(self, now_s: float) -> bool:
        """True if the budget allows one more attempt; the attempt is then spent."""
        self._advance(now_s)
        most = self.RETRY_PART * sum(self._requests) + self._least
        if sum(self._retries) >= most:
            return False
        self._retries[-1] += 1
        return True
