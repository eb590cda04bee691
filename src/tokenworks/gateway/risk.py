"""What may be lost on an account today: tokens that could be produced and not be charged, in flight and by record.

The operator's budget of it is per account and UTC day (`operator_loss_budget_tokens`). Where it is spent, requests hold
their worst case and an answer is read to its end though its client left. The recorder knows the day's sum over all
hosts and names the accounts over budget; what this worker's own requests risk counts at once.
"""

import time
from collections.abc import Callable
from typing import Final

ACCOUNTS_MAX: Final = 100_000
DAY_S: Final = 86_400


class LossBudgets:
    """Tokens at risk, by account. A budget of 0 is none."""

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
        """Whether the account's budget of today is spent."""
        if not self._budget_tokens:
            return False
        return account_id in self.lossy or self._today().get(account_id, 0) >= self._budget_tokens

    def take(self, account_id: str, tokens: int) -> bool:
        """Begin a request that may lose so many tokens; False where the budget does not allow it, and nothing is taken."""
        if not self._budget_tokens or tokens <= 0:
            return True
        in_flight = self._in_flight.get(account_id, 0)
        if account_id in self.lossy:
            return False
        # The request that reaches the budget is let pass: the loss is at most the budget and one request more.
        if in_flight + self._today().get(account_id, 0) >= self._budget_tokens:
            return False
        self._in_flight[account_id] = in_flight + tokens
        return True

    def give(self, account_id: str, tokens: int) -> None:
        """The request that took it is over."""
        left = self._in_flight.get(account_id, 0) - tokens
        if left > 0:
            self._in_flight[account_id] = left
        else:
            self._in_flight.pop(account_id, None)

    def lost(self, account_id: str, tokens: int) -> None:
        """A record says that so many tokens may have been produced and are not charged."""
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
