"""The credentials of one deployment that has several: which one a request takes, and which of them rest.

A vendor's limits belong to a credential, so a refusal of one of them (a rate, a quota, an unknown key) rests that credential alone; the
others go on. Times are monotonic seconds. One worker's view; times that a vendor named are shared with the host's other workers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

# How long a credential rests if the vendor named no time.
RATE_REST_S: Final = 5.0
REFUSED_REST_S: Final = 60.0
QUOTA_REST_S: Final = 300.0
# A credential of which the vendor says that little is left counts as this busy at least.
LEFT_MIN: Final = 0.05


class CredentialSlot:
    """One credential. `name`: for pauses that the host's workers share; unique on the host. `left`: the part of the vendor's limits
    that was left at the last answer; 1.0 if the vendor does not say it.
    """

    __slots__ = ("forgotten_s", "in_flight", "last_used", "left", "name", "reference", "rests_until_s")

    def __init__(self, name: str, reference: str) -> None:
        self.name = name
        self.reference = reference
        self.in_flight = 0
        self.last_used = 0
        self.left = 1.0
        self.rests_until_s = 0.0
        # Times up to this one were of a credential that was replaced.
        self.forgotten_s = 0.0

    def ended(self) -> None:
        assert self.in_flight > 0
        self.in_flight -= 1

    def rest(self, now_s: float, seconds: float) -> None:
        """Rest for so long, and no less than before."""
        self.rests_until_s = max(self.rests_until_s, now_s + seconds)
        # What was left before is not known to be left after the rest.
        self.left = 1.0

    def begin_anew(self) -> None:
        """The credential was replaced: what a vendor said of the one before is forgotten."""
        self.forgotten_s = max(self.forgotten_s, self.rests_until_s)
        self.rests_until_s = 0.0
        self.left = 1.0

    @property
    def load(self) -> float:
        """Requests in flight, the coming one included, for what is left."""
        return (self.in_flight + 1) / max(self.left, LEFT_MIN)


class CredentialRing:
    """The credentials of a deployment, in the order in which they are declared."""

    __slots__ = ("_turn", "slots")

    def __init__(self, deployment: str, references: Sequence[str]) -> None:
        # A deployment's name has no space.
        self.slots = [CredentialSlot(f"{deployment} {reference}", reference) for reference in references]
        self._turn = 0

    def take(self, now_s: float, usable: Callable[[str], bool]) -> CredentialSlot:
        """The credential for a request, which counts as in flight until `ended`: of those that do not rest the least busy, of equals the
        one that was used least recently. If all of them rest, the one that rests for the shortest time: the deployment decides
        whether it takes a request at all. `usable(reference)`: the host has the credential.
        """
        ready = [slot for slot in self.slots if usable(slot.reference)] or self.slots
        awake = [slot for slot in ready if slot.rests_until_s <= now_s]
        if awake:
            chosen = min(awake, key=_by_load)
        else:
            chosen = min(ready, key=_by_rest)
        self._turn += 1
        chosen.last_used = self._turn
        chosen.in_flight += 1
        return chosen

    def resting_s(self, now_s: float, usable: Callable[[str], bool]) -> float:
        """Seconds until the first usable credential takes a request; 0.0 if one takes it now, or none is usable."""
        left = [slot.rests_until_s - now_s for slot in self.slots if usable(slot.reference)]
        return max(0.0, min(left, default=0.0))

    def apply_pauses(self, until_s: Mapping[str, float], now_s: float) -> None:
        """Times that other workers of the host were told, by the slots' names."""
        for slot in self.slots:
            until = until_s.get(slot.name, 0.0)
            if until > max(slot.rests_until_s, slot.forgotten_s):
                slot.rest(now_s, until - now_s)


def _by_load(slot: CredentialSlot) -> tuple[float, int]:
    return slot.load, slot.last_used


def _by_rest(slot: CredentialSlot) -> tuple[float, int]:
    return slot.rests_until_s, slot.last_used
