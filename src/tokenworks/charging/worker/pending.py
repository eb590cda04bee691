"""What a worker's client keeps until the recorder acknowledges or answers it."""

from collections.abc import Callable, Sequence

from msgspec import Raw

from tokenworks.charging.messages import Amount, Need, Verdict
from tokenworks.charging.worker.account import AccountSlices, Hold

Waiter = Callable[[str], None]
"""Called once a record is on disk, with the argument that was passed to `finish`."""
HoldWaiter = Callable[[Hold | None, Verdict, int], None]
"""(hold, verdict, seconds): the hold, or None and why; for `WINDOW_USED_UP` the seconds until the window's quantity comes back."""
Used = tuple[str, list[Amount]]
"""(account, what one record used)."""


class UnackedMessage:
    """A message to the journal that is not acknowledged: its frame, what its records used, and the waiters of its records."""

    __slots__ = ("data", "number", "used", "waiters")

    def __init__(self, number: int, data: bytes, used: list[Used], waiters: list[tuple[Waiter, str]]) -> None:
        self.number = number
        self.data = data
        self.used = used
        self.waiters = waiters


class SliceWait:
    """A slice request that is not answered. `callback` is None where no client waits for it: a prefetch, or the client left."""

    __slots__ = ("account", "callback", "cap_ids", "model", "need", "prefetch", "sent_s", "tries")

    def __init__(
        self,
        account: AccountSlices,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        callback: HoldWaiter | None,
        sent_s: float,
    ) -> None:
        self.sent_s = sent_s
        self.account = account
        self.cap_ids = cap_ids
        self.model = model
        self.need = need
        self.callback = callback
        self.prefetch = False
        self.tries = 0


class QuestionWait:
    """A question to the wiring that is not answered. `on_answer` decodes the answer."""

    __slots__ = ("argument", "name", "on_answer", "sent_s")

    def __init__(
        self,
        name: str,
        argument: Raw,
        on_answer: Callable[[Raw | None], None],
        sent_s: float,
    ) -> None:
        self.name = name
        self.argument = argument
        self.on_answer = on_answer
        self.sent_s = sent_s
