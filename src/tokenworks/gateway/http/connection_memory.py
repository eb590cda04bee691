"""The share of one client connection in the worker's memory budget, by purpose."""

from tokenworks.gateway.memory import Budget
from tokenworks.gateway.protocol.errors import Refusal


class ConnectionMemory:
    """Bytes are counted under the client's address, and given back under the same one.

    The connection itself takes and gives back `memo_bytes`: a call less for each request with another head than the last one.
    """

    __slots__ = ("_budget", "_unread_bytes", "_waiting_bytes", "address", "memo_bytes", "request_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.address = ""
        self.request_bytes = 0  # of the request that is read or served
        self._waiting_bytes = 0  # of requests that came behind it
        self.memo_bytes = 0  # of the remembered head
        self._unread_bytes = 0  # of answers that the client has not read

    def take_request(self, count: int) -> bool:
        """Count `count` bytes more of the request. False if the budget has no room for them."""
        if self._budget.take(self.address, count):
            self.request_bytes += count
            return True
        return False

    def give_request(self) -> None:
        if self.request_bytes:
            self._budget.give(self.address, self.request_bytes)
            self.request_bytes = 0

    def refusal(self, count: int) -> Refusal:
        """The refusal of `count` bytes that did not fit."""
        return self._budget.refusal(self.address, count)

    def take_waiting(self, count: int) -> bool:
        if self._budget.take(self.address, count):
            self._waiting_bytes += count
            return True
        return False

    def give_waiting(self) -> None:
        self._budget.give(self.address, self._waiting_bytes)
        self._waiting_bytes = 0

    def take_unread(self, count: int, *, force: bool) -> bool:
        """Count `count` bytes that the client does not read; `force`: also beyond the budget."""
        if not self._budget.take(self.address, count):
            if not force:
                return False
            self._budget.force(self.address, count)
        self._unread_bytes += count
        return True

    def give_unread(self) -> None:
        if self._unread_bytes:
            self._budget.give(self.address, self._unread_bytes)
            self._unread_bytes = 0

    def give_all_but_unread(self) -> None:
        self._budget.give(self.address, self.request_bytes + self._waiting_bytes + self.memo_bytes)
        self.request_bytes = self._waiting_bytes = self.memo_bytes = 0

    def move_to(self, address: str) -> None:
        """Count all of it under another address."""
        taken = self.request_bytes + self._waiting_bytes + self.memo_bytes + self._unread_bytes
        self._budget.give(self.address, taken)
        self.address = address
        if taken:
            self._budget.force(address, taken)
