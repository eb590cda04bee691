"""What each deployment's prefix cache may hold: an approximate index of hashes of prompt blocks, bounded like the caches themselves.

A block's hash includes the hash of the block before it, so equal hashes mean equal prefixes. Every deployment has a list of blocks in
the order in which its engine would evict them (the tail of the least recently used prompt first). One mapping for the whole fleet
gives the holders of a block as bits of an integer, so a look-up costs one step per block, however many deployments there are.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import xxhash

BLOCK_BYTES: Final = 2048
# Only so many blocks of a prompt are hashed; longer prompts are compared by their beginning.
BLOCKS_MAX: Final = 512
CACHE_BLOCKS_DEFAULT: Final = 4096
_hash = xxhash.xxh3_64_intdigest


def hash_blocks(
    text: bytes | memoryview, block_bytes: int = BLOCK_BYTES, blocks_max: int = BLOCKS_MAX
) -> list[int]:
    """The chained hash of each whole block of a prompt. Two prompts have equal hashes up to the first block that differs."""
    found = []
    chained = 0
    for begin in range(0, min(len(text) - block_bytes, block_bytes * (blocks_max - 1)) + 1, block_bytes):
        chained = _hash(text[begin : begin + block_bytes], chained)
        found.append(chained)
    return found


class PrefixIndex:
    """Which deployment may hold which prefix. A deployment is a number; it has at most as many blocks as its capacity."""

    __slots__ = ("_capacities", "_holders", "_lists")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._lists: dict[int, OrderedDict[int, None]] = {}
        self._capacities: dict[int, int] = {}

    def add_deployment(self, number: int, capacity_blocks: int) -> None:
        """Add a deployment, or change its capacity: how many blocks its cache is assumed to hold."""
        self._lists.setdefault(number, OrderedDict())
        self._capacities[number] = max(1, capacity_blocks)
        self._evict(number)

    def forget(self, number: int) -> None:
        """Remove a deployment, or all that its cache held."""
        bit = 1 << number
        for block in self._lists.pop(number, ()):
            self._drop(block, bit)

    def size(self, number: int) -> int:
        """How many blocks a deployment is assumed to hold."""
        return len(self._lists[number])

    @property
    def blocks(self) -> int:
        """How many different blocks are known, over all deployments."""
        return len(self._holders)

    def match(self, blocks: Sequence[int]) -> dict[int, int]:
        """By deployment: how many blocks of the prompt's beginning it holds. Deployments that hold none are left out."""
        found: dict[int, int] = {}
        holders = self._holders
        remaining = holders.get(blocks[0], 0) if blocks else 0
        length = 0
        while remaining:
            length += 1
            going_on = remaining & holders.get(blocks[length], 0) if length < len(blocks) else 0
            gone = remaining & ~going_on
            while gone:
                bit = gone & -gone
                found[bit.bit_length() - 1] = length
                gone ^= bit
            remaining = going_on
        return found

    def touch(self, number: int, blocks: Sequence[int]) -> None:
        """A prompt goes to a deployment, which will hold its blocks. The first blocks of a prompt are evicted last."""
        held = self._lists[number]
        bit = 1 << number
        holders = self._holders
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                holders[block] = holders.get(block, 0) | bit
        if len(held) > self._capacities[number]:
            self._evict(number)

    def _evict(self, number: int) -> None:
        held = self._lists[number]
        bit = 1 << number
        while len(held) > self._capacities[number]:
            block, _ = held.popitem(last=False)
            self._drop(block, bit)

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
