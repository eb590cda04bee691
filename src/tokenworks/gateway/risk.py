"""The loss budget of each account: tokens that may be produced and not charged, in flight and by record.

The operator's budget is per account and UTC day (`operator_loss_budget_tokens`). If it is spent, requests hold their worst case, and
an answer is read to its end even if its client has gone. The recorder knows the day's sum over all hosts and names the accounts over
budget; the risk of this worker's own requests counts at once.
"""

import time
from collections.abc import Callable
from typing import Final

ACCOUNTS_MAX: Final = 100_000
DAY_S: Final = 86_400


class LossBudgets:
    """Tokens at risk, by account. A budget of 0 means that there is no budget."""

    __slots__ = ("_budget_tokens", "_day", "_in_flight", "_lost", "_now_s", "lossy")

    def __init__(self, budget_tokens: int, now_s: Callable[[], float] = time.time) -> None:
        self._budget_tokens = budget_tokens
        self._now_s = now_s
        self._day = 0
        self._in_flight: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self.lossy: frozenset[str] = frozenset()
        """Accounts over budget on this UTC day, as the recorder publishes them."""

    def spent(self, account_id: str) -> bool:
        """True if the account's budget of today is spent."""
        if not self._budget_tokens:
            return False
        return account_id in self.lossy or self._today().get(account_id, 0) >= self._budget_tokens

    def take(self, account_id: str, tokens: int) -> bool:
        """Count a request that may lose this many tokens. False, and nothing is counted, if the budget does not allow it."""
        if not self._budget_tokens or tokens <= 0:
            return True
        in_flight = self._in_flight.get(account_id, 0)
        if account_id in self.lossy:
            return False
        # The request that reaches the budget is allowed: the loss is at most the budget and one request more.
        if in_flight + self._today().get(account_id, 0) >= self._budget_tokens:
            return False
        self._in_flight[account_id] = in_flight + tokens
        return True

    def give(self, account_id: str, tokens: int) -> None:
        """The request that was counted is over."""
        left = self._in_flight.get(account_id, 0) - tokens
        if left > 0:
            self._in_flight[account_id] = left
        else:
            self._in_flight.pop(account_id, None)

    def lost(self, account_id: str, tokens: int) -> None:
        """Count the tokens that may have been produced for a record and are not charged."""
        if not self._budget_tokens or tokens <= 0:
            return
        lost = self._today()
        if account_id not in lost and len(lost) >= ACCOUNTS_MAX:
            del lost[next(iter(lost))]
        lost[account_id] = lost.get(account_id, 0) + tokens

    def _today(self) -> dict[str, int]:
        day = int(self._now_s()) // DAY_S
        if day != self._day:
            self._day = day
            self._lost.clear()
        return self._lost
