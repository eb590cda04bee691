"""What a worker's client of the recorder keeps until it is acknowledged or answered."""

from collections.abc import Callable, Sequence

from msgspec import Raw

from tokenworks.charging.messages import Amount, Need, Verdict
from tokenworks.charging.worker.slices import AccountSlices, Hold

Waiter = Callable[[str], None]
"""Called once a record is on disk, with the argument that it was handed in with."""
HoldWaiter = Callable[[Hold | None, Verdict, int], None]
"""(hold, verdict, seconds): the hold, or None and why, and for `WINDOW_USED_UP` when its quantity comes back."""
Used = tuple[str, list[Amount]]
"""(account, what one record used)."""


class UnackedMessage:
    """A message to the journal that is not acknowledged: its frame, what it used (for a new recorder), who waits for it."""

    __slots__ = ("data", "number", "used", "waiters")

    def __init__(self, number: int, data: bytes, used: list[Used], waiters: list[tuple[Waiter, str]]) -> None:
        self.number = number
        self.data = data
        self.used = used
        self.waiters = waiters


class SliceWait:
    """A request for slices that is not answered. `callback` is None where no client waits any more."""

    __slots__ = ("account", "asked_s", "callback", "cap_ids", "model", "need", "soft", "tries")

    def __init__(
        self,
        account: AccountSlices,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        callback: HoldWaiter | None,
        asked_s: float,
    ) -> None:
        self.asked_s = asked_s
        self.account = account
        self.cap_ids = cap_ids
        self.model = model
        self.need = need
        self.callback = callback
        self.soft = False
        self.tries = 0


class QuestionWait:
    """A question to the wiring that is not answered; `answered` reads the answer."""

    __slots__ = ("answered", "argument", "asked_s", "name")

    def __init__(
        self,
        name: str,
        argument: Raw,
        answered: Callable[[Raw | None], None],
        asked_s: float,
    ) -> None:
        self.name = name
        self.argument = argument
        self.answered = answered
        self.asked_s = asked_s
