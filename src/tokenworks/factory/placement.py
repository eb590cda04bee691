"""Which deployment gets a request: the healthy one with the fewest requests in flight from here.

Health is passive (a circuit breaker on what was observed) and active (checks of those that failed or idle).
Pure on its own state and the time it is given, so that it runs on the data plane and in a test alike.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from tokenworks.factory.model import Deployment

FAILURES_TO_OPEN: Final = 5
COOL_DOWN_S: Final = 10.0


class Place:
    """One deployment as a worker sees it."""

    __slots__ = ("cool_until_s", "deployment", "failures", "last_used_s", "name", "outstanding", "trial")

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.name = deployment.name
        self.outstanding = 0
        self.failures = 0
        self.cool_until_s = 0.0
        self.trial = False
        self.last_used_s = 0.0

    def open(self, now_s: float) -> bool:
        """Whether the circuit is open: nothing is sent, but for one trial after the cool-down."""
        return self.failures >= FAILURES_TO_OPEN and (now_s < self.cool_until_s or self.trial)

    def began(self, now_s: float) -> None:
        self.outstanding += 1
        self.last_used_s = now_s
        if self.failures >= FAILURES_TO_OPEN:
            self.trial = True

    def ended(self) -> None:
        assert self.outstanding > 0
        self.outstanding -= 1
        self.trial = False

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, now_s: float, cool_down_s: float = COOL_DOWN_S) -> None:
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.cool_until_s = now_s + cool_down_s

    def rest(self, now_s: float, seconds: float) -> None:
        """A vendor's Retry-After: the circuit opens at once for that long."""
        self.failures = max(self.failures, FAILURES_TO_OPEN)
        self.cool_until_s = max(self.cool_until_s, now_s + seconds)


def choose(places: Sequence[Place], tried: Collection[str], now_s: float) -> Place | None:
    """The place with the fewest requests in flight whose circuit is closed; ties go round by last use.

    Where every circuit is open, the one that cools down first: a wrong guess costs one request, refusing all
    of them costs every one.
    """
    best: Place | None = None
    for place in places:
        if (tried and place.name in tried) or (place.failures >= FAILURES_TO_OPEN and place.open(now_s)):
            continue
        if (
            best is None
            or place.outstanding < best.outstanding
            or (place.outstanding == best.outstanding and place.last_used_s < best.last_used_s)
        ):
            best = place
    if best is None:
        closed = [place for place in places if place.name not in tried and not place.trial]
        best = min(closed, key=lambda place: place.cool_until_s, default=None)
    return best


def carry_over(old: Iterable[Place], new: Iterable[Place]) -> list[Place]:
    """Places of a new snapshot: what is unchanged keeps its state (and its requests in flight)."""
    known = {place.name: place for place in old}
    kept = []
    for place in new:
        before = known.get(place.name)
        kept.append(before if before is not None and before.deployment == place.deployment else place)
    return kept
