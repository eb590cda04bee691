"""The memory budget of a worker's requests and answers in flight, with a share for each client address."""

from typing import Final

from tokenworks.gateway.protocol.errors import Refusal

# A head or a body up to this size that came in one read is not counted: `requests_max` and `connections_max` bound their number, and to
# count them would cost more than it is worth.
UNCOUNTED_BYTES: Final = 4096


class Budget:
    """Bytes in flight, in total and by client address. Bytes are given back under the address under which they were taken."""

    __slots__ = ("_by_address", "address_max", "bytes_max", "peak", "refused", "used")

    def __init__(self, bytes_max: int, address_percent: int) -> None:
        self.bytes_max = bytes_max
        self.address_max = max(1, bytes_max * address_percent // 100)
        self.used = 0
        self.peak = 0
        self.refused = 0
        self._by_address: dict[str, int] = {}

    def take(self, address: str, count: int) -> bool:
        """Count `count` bytes more. False if they do not fit."""
        used = self.used + count
        of_address = self._by_address.get(address, 0) + count
        if used > self.bytes_max or of_address > self.address_max:
            self.refused += 1
            return False
        self.used = used
        self._by_address[address] = of_address
        self.peak = max(self.peak, used)
        return True

    def take_memo(self, address: str, count: int) -> bool:
        """The same for a memo, which only saves work: at most a quarter of the budget."""
        return self.used < self.bytes_max // 4 and self.take(address, count)

    def force(self, address: str, count: int) -> None:
        """Count bytes that are already in memory, also beyond the budget. Later ones are refused the sooner."""
        self.used += count
        self._by_address[address] = self._by_address.get(address, 0) + count
        self.peak = max(self.peak, self.used)

    def give(self, address: str, count: int) -> None:
        if not count:
            return
        left = self._by_address[address] - count
        assert left >= 0
        self.used -= count
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def of(self, address: str) -> int:
        """The bytes that an address has taken."""
        return self._by_address.get(address, 0)

    def refusal(self, address: str, count: int) -> Refusal:
        """The refusal of `count` bytes that did not fit."""
        if self.of(address) + count > self.address_max:
            return Refusal(
                429,
                "too_many_requests",
                f"this address has {self.of(address)} bytes in flight, and {self.address_max} are the most: "
                "wait for a request to end",
                1,
            )
        return Refusal(
            503, "memory_full", "this server has all the bytes in flight that it takes: try again", 1
        )
