"""The loss budget: what may have been produced for an account on a day (UTC) and is not charged.

The host sums what its journal has and the database does not; the database has what all hosts settled. Together they are exact on
one host at once, and between hosts within a poll. Runs in the recorder's loop.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

DAY_MS: Final = 86_400_000
# Accounts of this host that are remembered of a day, the oldest dropped; accounts that are published.
ACCOUNTS_KEPT: Final = 100_000
LOSSY_MAX: Final = 100_000


class HostLosses:
    """`budget_tokens` an account and day; 0: no budget. `changed` is called with the accounts that are over it."""

    def __init__(
        self, budget_tokens: int = 0, changed: Callable[[frozenset[str]], None] = lambda _: None
    ) -> None:
        self.budget_tokens = budget_tokens
        self.over: frozenset[str] = frozenset()
        self._changed = changed
        self._day = 0
        # (sequence, day, account, tokens) that the database may not have yet.
        self._unsettled: deque[tuple[int, int, str, int]] = deque()
        self._waiting: dict[str, int] = {}  # of today, by account
        self._settled: dict[str, int] = {}  # of today, as far as this host knows

    def add(self, seq: int, account_id: str, ended_ms: int, tokens: int) -> None:
        """A record of the journal says so."""
        if not self.budget_tokens:
            return
        day = ended_ms // DAY_MS
        self._unsettled.append((seq, day, account_id, tokens))
        # A day begins when the database says so: this host's clock may be off.
        if day == self._day:
            self._waiting[account_id] = self._waiting.get(account_id, 0) + tokens
            if account_id not in self.over and self._sum(account_id) > self.budget_tokens:
                self._say(self.over | {account_id})

    def read(self, day: int, settled_seq: int, found: Iterable[tuple[str, int]]) -> None:
        """What the database says: the day by its clock (days since 1970), how far this journal is settled in what it says, and
        the accounts with most.
        """
        if not self.budget_tokens:
            return
        if day != self._day:
            self._begin(day)
        while self._unsettled and self._unsettled[0][0] <= settled_seq:
            _, on, account_id, tokens = self._unsettled.popleft()
            if on == self._day:
                self._settled[account_id] = self._settled.pop(account_id, 0) + tokens
                self._waiting[account_id] -= tokens
                if not self._waiting[account_id]:
                    del self._waiting[account_id]
        # Of an account that it does not name, what this host knows by itself.
        self._settled.update(found)
        while len(self._settled) > ACCOUNTS_KEPT + LOSSY_MAX:
            del self._settled[next(iter(self._settled))]
        over = [
            account_id
            for account_id in (*self._settled, *(self._waiting.keys() - self._settled.keys()))
            if self._sum(account_id) > self.budget_tokens
        ]
        self._say(frozenset(over[:LOSSY_MAX]))

    def _begin(self, day: int) -> None:
        self._day = day
        self._settled.clear()
        self._waiting.clear()
        for _, on, account_id, tokens in self._unsettled:
            if on == day:
                self._waiting[account_id] = self._waiting.get(account_id, 0) + tokens
        self._say(frozenset())

    def _sum(self, account_id: str) -> int:
        return self._settled.get(account_id, 0) + self._waiting.get(account_id, 0)

    def _say(self, over: frozenset[str]) -> None:
        if over != self.over:
            self.over = over
            self._changed(over)
