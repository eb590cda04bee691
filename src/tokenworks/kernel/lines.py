"""How often a log line may be written: so many at once of each kind, and then one every so often. Pure: the caller has the time."""

from collections.abc import Hashable
from typing import Final

# Kinds that are told apart; those beyond share one place.
KINDS_MAX: Final = 500
OTHER: Final = "other"


class LineLimit:
    """A token bucket for each kind of line. What is left out is counted, and said once `summary_s` later at the latest."""

    __slots__ = ("_burst", "_kinds", "_per_s", "_summary_s")

    def __init__(self, burst: int, per_s: float, summary_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._summary_s = summary_s
        # Kind -> [lines that may be written at once, seconds when that was true, lines left out, seconds of the first of them].
        self._kinds: dict[Hashable, list[float]] = {}

    def admits(self, kind: Hashable, now_s: float) -> bool:
        """True where a line of this kind may be written now; else it is counted as left out."""
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= KINDS_MAX:
                self._forget(now_s)
            if len(self._kinds) >= KINDS_MAX:
                kind = OTHER
            found = self._kinds.setdefault(kind, [self._burst, now_s, 0, 0.0])
        found[0] = min(self._burst, found[0] + (now_s - found[1]) * self._per_s)
        found[1] = now_s
        if found[0] >= 1:
            found[0] -= 1
            return True
        if not found[2]:
            found[3] = now_s
        found[2] += 1
        return False

    def left_out(self, now_s: float, *, all_of_them: bool = False) -> list[tuple[Hashable, int]]:
        """(kind, lines) of what was left out for `summary_s` and not said yet, or of all that was; from now on it is said."""
        due = []
        for kind, found in self._kinds.items():
            if found[2] and (all_of_them or now_s - found[3] >= self._summary_s):
                due.append((kind, int(found[2])))
                found[2] = 0
        return due

    def _forget(self, now_s: float) -> None:
        """Kinds of which a burst may be written again, and nothing is to be said."""
        full = [
            kind
            for kind, (tokens, at_s, left_out, _) in self._kinds.items()
            if not left_out and tokens + (now_s - at_s) * self._per_s >= self._burst
        ]
        for kind in full:
            del self._kinds[kind]
