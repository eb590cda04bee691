"""Who is next where more is asked of a model's deployments than they take at once.

Each subscriber has a counter of the tokens that he was served, divided by his plan's weight, and the one who has had the
least is next (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). Who comes back
is lifted to the least of those who wait, so that nobody saves up. What a request will take is not known when it begins:
the mean of the subscriber's last ones is counted, and put right at the end.

Classes go before counters: a higher one is always served first. Pure on its own state and the times it is given.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final

# Classes of service, the first served last.
FLEX, STANDARD, PRIORITY = range(3)
CLASSES: Final = 3
ACCOUNTS_MAX: Final = 100_000
# Who was served within this counts among those who share.
ACTIVE_MS: Final = 60_000
MEAN_GAIN: Final = 0.2
# Who shares is summed so often, and every time where it is few.
WEIGHTS_FOR_MS: Final = 250
FEW_ACCOUNTS: Final = 64
# Of what a place takes at once, this part is kept for others by who has his share already.
HEADROOM_PARTS: Final = 8


class Waiter:
    """One request that waits. `ticket` is its owner's; `places` what it may have, as its owner names them."""

    __slots__ = ("account_id", "places", "service", "ticket", "tokens", "until_ms", "weight")

    def __init__(
        self, ticket: Hashable, account_id: str, weight: int, service: int, tokens: int, places: tuple[str, ...],
        until_ms: int,
    ) -> None:  # fmt: skip
        self.ticket = ticket
        self.account_id = account_id
        self.weight = max(1, weight)
        self.service = min(max(service, FLEX), PRIORITY)
        self.tokens = tokens
        self.places = places
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
    """The queue of one model. `waiting_max` waiters; one more sheds the last of those who are served last."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._accounts: dict[str, _Account] = {}
        self._by_class: tuple[dict[str, _Account], ...] = tuple({} for _ in range(CLASSES))
        self._waiters: dict[Hashable, Waiter] = {}
        self._floor = 0.0
        self._active: tuple[int, int] = (
            -WEIGHTS_FOR_MS,
            0,
        )  # when it was summed, the weights of who is served

    def __len__(self) -> int:
        return len(self._waiters)

    def waits_before(self, service: int) -> bool:
        """Whether somebody waits whom one of this class must not overtake."""
        return any(self._by_class[at] for at in range(service, CLASSES))

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
        """Who had nothing here is not behind those who wait."""
        if account.in_flight or any(account.waiting):
            return
        waiting = [other.counter for by_class in self._by_class for other in by_class.values()]
        account.counter = max(account.counter, min(waiting, default=self._floor))

    def join(self, waiter: Waiter) -> Waiter | None:
        """Wait. Returns who is shed for it: None, another waiter, or this one."""
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
        """Of the lowest class the latest request of who waits with most for his weight."""
        for service, by_class in enumerate(self._by_class):
            if service > newcomer.service:
                break
            if not by_class:
                continue
            most = max(by_class.values(), key=lambda a: len(a.waiting[service]) / a.weight)
            mine = len(account.waiting[service]) / account.weight if service == newcomer.service else -1.0
            if mine >= len(most.waiting[service]) / most.weight:
                return newcomer
            return most.waiting[service][-1]
        return newcomer

    def leave(self, ticket: Hashable) -> Waiter | None:
        """It does not wait any more."""
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
        """Whom to try first: the first of each subscriber, by class, then by what he had."""
        for by_class, service in zip(reversed(self._by_class), reversed(range(CLASSES)), strict=True):
            for account in sorted(by_class.values(), key=lambda a: a.counter):
                yield account.waiting[service][0]

    def overdue(self, now_ms: int) -> list[Waiter]:
        """Those who have waited as long as they would; they are taken out."""
        late = [waiter for waiter in self._waiters.values() if waiter.until_ms <= now_ms]
        for waiter in late:
            self.leave(waiter.ticket)
        return late

    def drop(self, gone: Callable[[Waiter], bool]) -> None:
        for waiter in [waiter for waiter in self._waiters.values() if gone(waiter)]:
            self.leave(waiter.ticket)

    # What is served.

    def began(self, account_id: str, weight: int, tokens: int, now_ms: int) -> int:
        """A request begins, of at most so many tokens. Returns what is counted of it for now."""
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
        """Whether a subscriber has at least his part of so many slots while others were served, too, or wait."""
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
        """Forget who neither waits nor is served (nor was, lately, where a time is given)."""
        for account_id, account in list(self._accounts.items()):
            idle = not account.in_flight and not any(account.waiting)
            if idle and (now_ms is None or now_ms - account.served_ms >= ACTIVE_MS):
                del self._accounts[account_id]

    @property
    def idle(self) -> bool:
        return not self._accounts


def headroom(slots: int) -> int:
    """How many of a place's slots are not for who has his share already."""
    return slots // HEADROOM_PARTS
