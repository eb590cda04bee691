"""What each place's prefix cache may hold: an approximate index of hashes of prompt blocks, bounded like the caches themselves.

A block's hash is chained to what comes before it, so equal hashes mean equal prefixes. Every place has a list of blocks in
the order in which its backend would evict them (the tail of the least recently used prompt first); over all places one
mapping says which of them has a block, as bits of an integer, so that looking a prompt up costs a step a block, however
many places there are.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import xxhash

BLOCK_BYTES: Final = 2048
# A longer prompt is told apart by its beginning.
BLOCKS_MAX: Final = 512
CACHE_BLOCKS_DEFAULT: Final = 4096
_hash = xxhash.xxh3_64_intdigest


def hash_blocks(
    text: bytes | memoryview, block_bytes: int = BLOCK_BYTES, blocks_max: int = BLOCKS_MAX
) -> list[int]:
    """The chained hash of each whole block of a prompt's bytes: equal up to the first block that differs."""
    found = []
    chained = 0
    for begin in range(0, min(len(text) - block_bytes, block_bytes * (blocks_max - 1)) + 1, block_bytes):
        chained = _hash(text[begin : begin + block_bytes], chained)
        found.append(chained)
    return found


class PrefixIndex:
    """Which place may have which prefix. A place is a number; its blocks are at most its capacity."""

    __slots__ = ("_capacities", "_holders", "_lists")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._lists: dict[int, OrderedDict[int, None]] = {}
        self._capacities: dict[int, int] = {}

    def add_deployment(self, number: int, capacity_blocks: int) -> None:
        """Capacity: as many blocks as the place's cache is believed to hold."""
        self._lists.setdefault(number, OrderedDict())
        self._capacities[number] = max(1, capacity_blocks)
        self._evict(number)

    def forget(self, number: int) -> None:
        """A place is gone, or its cache is."""
        bit = 1 << number
        for block in self._lists.pop(number, ()):
            self._drop(block, bit)

    def size(self, number: int) -> int:
        """How many blocks a place is believed to have."""
        return len(self._lists[number])

    @property
    def blocks(self) -> int:
        """How many different blocks are known, over all places."""
        return len(self._holders)

    def match(self, blocks: Sequence[int]) -> dict[int, int]:
        """How many blocks of the prompt's beginning each place has; places that have none are not in it."""
        found: dict[int, int] = {}
        holders = self._holders
        have = holders.get(blocks[0], 0) if blocks else 0
        length = 0
        while have:
            length += 1
            going_on = have & holders.get(blocks[length], 0) if length < len(blocks) else 0
            gone = have & ~going_on
            while gone:
                bit = gone & -gone
                found[bit.bit_length() - 1] = length
                gone ^= bit
            have = going_on
        return found

    def touch(self, number: int, blocks: Sequence[int]) -> None:
        """A prompt goes to a place: it will have its blocks. The beginning of a prompt is kept the longest."""
        mine = self._lists[number]
        bit = 1 << number
        holders = self._holders
        for block in reversed(blocks):
            if block in mine:
                mine.move_to_end(block)
            else:
                mine[block] = None
                holders[block] = holders.get(block, 0) | bit
        if len(mine) > self._capacities[number]:
            self._evict(number)

    def _evict(self, number: int) -> None:
        mine = self._lists[number]
        bit = 1 << number
        while len(mine) > self._capacities[number]:
            block, _ = mine.popitem(last=False)
            self._drop(block, bit)

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
