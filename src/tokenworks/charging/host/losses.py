"""The loss budget: what may have been produced for an account on a day (UTC) and is not charged.

The host sums what its journal has and the database does not have yet; the database has what all hosts settled. Together they are exact
on one host at once, and between hosts after the next poll. Runs in the recorder's loop.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

DAY_MS: Final = 86_400_000
# The most accounts of a day that this host remembers, the oldest dropped first; and the most that are published.
ACCOUNTS_KEPT: Final = 100_000
LOSSY_MAX: Final = 100_000


class HostLosses:
    """`budget_tokens`: of an account on a day, 0 for no budget. `changed` is called with the accounts that are over the budget."""

    def __init__(
        self, budget_tokens: int = 0, changed: Callable[[frozenset[str]], None] = lambda _: None
    ) -> None:
        self.budget_tokens = budget_tokens
        self.over: frozenset[str] = frozenset()
        self._changed = changed
        self._day = 0
        # (sequence, day, account, tokens) that the database may not have yet.
        self._unsettled: deque[tuple[int, int, str, int]] = deque()
        # Sums of today by account: what the database may not have yet, and what it has as far as this host knows.
        self._unsettled_sums: dict[str, int] = {}
        self._settled: dict[str, int] = {}

    def add(self, seq: int, account_id: str, ended_ms: int, tokens: int) -> None:
        """Count tokens that a record of the journal says may have been produced and are not charged."""
        if not self.budget_tokens:
            return
        day = ended_ms // DAY_MS
        self._unsettled.append((seq, day, account_id, tokens))
        # The day is the database's: this host's clock may be off.
        if day == self._day:
            self._unsettled_sums[account_id] = self._unsettled_sums.get(account_id, 0) + tokens
            if account_id not in self.over and self._sum(account_id) > self.budget_tokens:
                self._set_over(self.over | {account_id})

    def read(self, day: int, settled_seq: int, found: Iterable[tuple[str, int]]) -> None:
        """Take the sums of the database: the day by its clock (days since 1970), the sequence up to which this journal is settled in
        them, and the accounts with the largest sums.
        """
        if not self.budget_tokens:
            return
        if day != self._day:
            self._begin(day)
        while self._unsettled and self._unsettled[0][0] <= settled_seq:
            _, ended_day, account_id, tokens = self._unsettled.popleft()
            if ended_day == self._day:
                self._settled[account_id] = self._settled.pop(account_id, 0) + tokens
                self._unsettled_sums[account_id] -= tokens
                if not self._unsettled_sums[account_id]:
                    del self._unsettled_sums[account_id]
        # For an account that the database did not name, this host's own sum stays.
        self._settled.update(found)
        while len(self._settled) > ACCOUNTS_KEPT + LOSSY_MAX:
            del self._settled[next(iter(self._settled))]
        over = [
            account_id
            for account_id in (*self._settled, *(self._unsettled_sums.keys() - self._settled.keys()))
            if self._sum(account_id) > self.budget_tokens
        ]
        self._set_over(frozenset(over[:LOSSY_MAX]))

    def _begin(self, day: int) -> None:
        self._day = day
        self._settled.clear()
        self._unsettled_sums.clear()
        for _, ended_day, account_id, tokens in self._unsettled:
            if ended_day == day:
                self._unsettled_sums[account_id] = self._unsettled_sums.get(account_id, 0) + tokens
        self._set_over(frozenset())

    def _sum(self, account_id: str) -> int:
        return self._settled.get(account_id, 0) + self._unsettled_sums.get(account_id, 0)

    def _set_over(self, over: frozenset[str]) -> None:
        if over != self.over:
            self.over = over
            self._changed(over)
