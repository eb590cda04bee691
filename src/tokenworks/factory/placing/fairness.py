"""Which queued request is next when a model's deployments are full.

Each subscriber has a counter of the tokens that it was served, divided by its plan's weight, and the subscriber with the lowest
counter is next (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A subscriber that
was idle is lifted to the lowest counter of those with queued requests, so idle time gives no advantage. The tokens of a request are
not known when it begins: the mean of the subscriber's last requests is counted, and corrected when the request ends.

Classes of service come before counters: a higher class is always served first. The module depends on its own state and the times it
is given alone.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final

# Classes of service, the lowest first.
FLEX, STANDARD, PRIORITY = range(3)
CLASSES: Final = 3
ACCOUNTS_MAX: Final = 100_000
# A subscriber counts as active for so long after its last request began or ended.
ACTIVE_MS: Final = 60_000
MEAN_GAIN: Final = 0.2
# The weights of active subscribers are summed so often, or every time if there are at most FEW_ACCOUNTS.
WEIGHTS_FOR_MS: Final = 250
FEW_ACCOUNTS: Final = 64
# The last 1/HEADROOM_PARTS of a deployment's limit is reserved for subscribers below their fair share.
HEADROOM_PARTS: Final = 8


class Waiter:
    """One queued request. `ticket` names it to the queue's owner; `deployments` are those that it may have, as the owner names them."""

    __slots__ = ("account_id", "deployments", "service", "ticket", "tokens", "until_ms", "weight")

    def __init__(
        self, ticket: Hashable, account_id: str, weight: int, service: int, tokens: int, deployments: tuple[str, ...],
        until_ms: int,
    ) -> None:  # fmt: skip
        self.ticket = ticket
        self.account_id = account_id
        self.weight = max(1, weight)
        self.service = min(max(service, FLEX), PRIORITY)
        self.tokens = tokens
        self.deployments = deployments
        self.until_ms = until_ms


class _Account:
    __slots__ = ("counter", "in_flight", "mean_tokens", "served_ms", "waiting", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.counter = 0.0
        self.mean_tokens = 0.0
        self.in_flight = 0
        self.served_ms = -ACTIVE_MS
        self.waiting: tuple[deque[Waiter], ...] = tuple(deque() for _ in range(CLASSES))


class FairQueue:
    """The queue of one model, of at most `waiting_max` requests; one more sheds the last request of the lowest class."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._accounts: dict[str, _Account] = {}
        self._by_class: tuple[dict[str, _Account], ...] = tuple({} for _ in range(CLASSES))
        self._waiters: dict[Hashable, Waiter] = {}
        self._floor = 0.0
        # (when it was summed, in ms; the sum of the weights of active subscribers)
        self._active: tuple[int, int] = (-WEIGHTS_FOR_MS, 0)

    def __len__(self) -> int:
        return len(self._waiters)

    def must_queue(self, service: int) -> bool:
        """True if a request of this class or a higher one is queued; a new request of this class must not overtake it."""
        return any(self._by_class[level] for level in range(service, CLASSES))

    def _account(self, account_id: str, weight: int) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_MAX:
                self.forget_idle(now_ms=None)
            account = self._accounts[account_id] = _Account(weight)
            account.counter = self._floor
        account.weight = weight
        return account

    def _lift(self, account: _Account) -> None:
        """Lift the counter of an idle subscriber to the lowest counter of those with queued requests."""
        if account.in_flight or any(account.waiting):
            return
        counters = [queued.counter for by_class in self._by_class for queued in by_class.values()]
        account.counter = max(account.counter, min(counters, default=self._floor))

    def join(self, waiter: Waiter) -> Waiter | None:
        """Queue a request. Returns the request that is shed for it: None, another one, or this one."""
        account = self._account(waiter.account_id, waiter.weight)
        self._lift(account)
        shed = None
        if len(self._waiters) >= self._waiting_max:
            shed = self._last(waiter, account)
            if shed is waiter:
                return waiter
            self.leave(shed.ticket)
        account.waiting[waiter.service].append(waiter)
        self._by_class[waiter.service][waiter.account_id] = account
        self._waiters[waiter.ticket] = waiter
        return shed

    def _last(self, newcomer: Waiter, account: _Account) -> Waiter:
        """The request to shed: in the lowest class, the latest one of the subscriber with the most queued requests for its weight."""
        for service, by_class in enumerate(self._by_class):
            if service > newcomer.service:
                break
            if not by_class:
                continue
            heaviest = max(by_class.values(), key=lambda a: len(a.waiting[service]) / a.weight)
            own_load = len(account.waiting[service]) / account.weight if service == newcomer.service else -1.0
            if own_load >= len(heaviest.waiting[service]) / heaviest.weight:
                return newcomer
            return heaviest.waiting[service][-1]
        return newcomer

    def leave(self, ticket: Hashable) -> Waiter | None:
        """Take a request out of the queue. Returns it, or None if it is not queued."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is None:
            return None
        account = self._accounts[waiter.account_id]
        waiting = account.waiting[waiter.service]
        waiting.remove(waiter)
        if not waiting:
            del self._by_class[waiter.service][waiter.account_id]
        return waiter

    def in_order(self) -> Iterator[Waiter]:
        """The order in which to try: the first request of each subscriber, by class, then by the subscriber's counter."""
        for by_class, service in zip(reversed(self._by_class), reversed(range(CLASSES)), strict=True):
            for account in sorted(by_class.values(), key=lambda a: a.counter):
                yield account.waiting[service][0]

    def overdue(self, now_ms: int) -> list[Waiter]:
        """Take out the requests whose waiting time is over, and return them."""
        late = [waiter for waiter in self._waiters.values() if waiter.until_ms <= now_ms]
        for waiter in late:
            self.leave(waiter.ticket)
        return late

    def drop(self, gone: Callable[[Waiter], bool]) -> None:
        for waiter in [waiter for waiter in self._waiters.values() if gone(waiter)]:
            self.leave(waiter.ticket)

    # Requests in flight.

    def began(self, account_id: str, weight: int, tokens: int, now_ms: int) -> int:
        """A request of at most so many tokens begins. Returns the tokens that are counted for it until it ends."""
        account = self._account(account_id, weight)
        self._lift(account)
        expected = min(tokens, round(account.mean_tokens)) if account.mean_tokens else tokens
        self._floor = max(self._floor, account.counter)
        account.counter += expected / account.weight
        account.in_flight += 1
        account.served_ms = now_ms
        return expected

    def ended(self, account_id: str, counted_tokens: int, used_tokens: int, now_ms: int) -> None:
        account = self._accounts.get(account_id)
        if account is None:
            return
        account.counter += (used_tokens - counted_tokens) / account.weight
        account.in_flight = max(0, account.in_flight - 1)
        account.served_ms = now_ms
        if used_tokens:
            gain = MEAN_GAIN if account.mean_tokens else 1.0
            account.mean_tokens += gain * (used_tokens - account.mean_tokens)

    def has_share(self, account_id: str, weight: int, slots: int, now_ms: int) -> bool:
        """True if a subscriber has at least its fair share of so many slots, and other subscribers are active."""
        summed_ms, weights = self._active
        if now_ms - summed_ms >= WEIGHTS_FOR_MS or len(self._accounts) <= FEW_ACCOUNTS:
            weights = sum(
                account.weight
                for account in self._accounts.values()
                if account.in_flight or now_ms - account.served_ms < ACTIVE_MS or any(account.waiting)
            )
            self._active = now_ms, weights
        known = self._accounts.get(account_id)
        return known is not None and weights > weight and known.in_flight * weights >= slots * weight

    def forget_idle(self, now_ms: int | None) -> None:
        """Forget subscribers without queued requests or requests in flight; with a time, only those that are not active."""
        for account_id, account in list(self._accounts.items()):
            idle = not account.in_flight and not any(account.waiting)
            if idle and (now_ms is None or now_ms - account.served_ms >= ACTIVE_MS):
                del self._accounts[account_id]

    @property
    def idle(self) -> bool:
        return not self._accounts


def headroom(slots: int) -> int:
    """How many of a deployment's slots are reserved for subscribers below their fair share."""
    return slots // HEADROOM_PARTS
