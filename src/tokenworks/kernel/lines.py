"""A rate limit for log lines: a burst of each kind, then so many a second. Pure: the caller passes the time."""

from collections.abc import Hashable
from typing import Final

# The most kinds that are counted by themselves; further kinds are counted together.
KINDS_MAX: Final = 500
OTHER: Final = "other"


class LineLimit:
    """A token bucket for each kind of line. Lines that are left out are counted, and reported after `summary_s`."""

    __slots__ = ("_burst", "_kinds", "_per_s", "_summary_s")

    def __init__(self, burst: int, per_s: float, summary_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._summary_s = summary_s
        # Kind -> [lines that may be written now, when that was computed, lines left out, when the first of them was], times in seconds.
        self._kinds: dict[Hashable, list[float]] = {}

    def admits(self, kind: Hashable, now_s: float) -> bool:
        """Return True if a line of this kind may be written now; else count it as left out."""
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

    def left_out(self, now_s: float, *, include_recent: bool = False) -> list[tuple[Hashable, int]]:
        """Take (kind, lines left out) of the kinds whose first such line is `summary_s` old, or of all kinds. Their counts begin anew."""
        due = []
        for kind, found in self._kinds.items():
            if found[2] and (include_recent or now_s - found[3] >= self._summary_s):
                due.append((kind, int(found[2])))
                found[2] = 0
        return due

    def _forget(self, now_s: float) -> None:
        """Forget kinds of which a full burst may be written again, and no line was left out."""
        full = [
            kind
            for kind, (tokens, at_s, left_out, _) in self._kinds.items()
            if not left_out and tokens + (now_s - at_s) * self._per_s >= self._burst
        ]
        for kind in full:
            del self._kinds[kind]
