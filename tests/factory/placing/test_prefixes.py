"""The index of what caches may hold, against a naive one."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory.placing.prefixes import BLOCK_BYTES, BLOCKS_MAX, PrefixIndex, hash_blocks


@given(st.binary(max_size=9000), st.binary(max_size=9000), st.integers(1, 3000))
def test_hashes_are_equal_up_to_the_first_block_that_differs(one, other, size):
    a, b = hash_blocks(one, size), hash_blocks(other, size)
    assert len(a) == min(len(one) // size, BLOCKS_MAX)
    same = 0
    while same < min(len(a), len(b)) and one[: (same + 1) * size] == other[: (same + 1) * size]:
        same += 1
    assert a[:same] == b[:same]
    assert not set(a[same:]) & set(b[same:])


def test_a_long_prompt_is_told_apart_by_its_beginning():
    found = hash_blocks(b"x" * BLOCK_BYTES * (BLOCKS_MAX + 50))
    assert len(found) == BLOCKS_MAX == len(set(found))
    assert hash_blocks(b"") == hash_blocks(b"x" * (BLOCK_BYTES - 1)) == []


class Naive:
    def __init__(self, capacity):
        self.capacity = capacity
        self.lists = {}

    def match(self, blocks):
        found = {}
        for number, mine in self.lists.items():
            length = 0
            while length < len(blocks) and blocks[length] in mine:
                length += 1
            if length:
                found[number] = length
        return found

    def touch(self, number, blocks):
        mine = self.lists.setdefault(number, [])
        for block in reversed(blocks):
            if block in mine:
                mine.remove(block)
            mine.append(block)
        del mine[: max(0, len(mine) - self.capacity)]


def chain(path):
    """Block ids of a prompt: each says all that is before it."""
    return [hash(tuple(path[: n + 1])) for n in range(len(path))]


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 2), max_size=6)), max_size=40),
)
def test_it_says_what_a_naive_one_says_and_never_holds_more(capacity, steps):
    index, naive = PrefixIndex(), Naive(capacity)
    for number in range(4):
        index.add_deployment(number, capacity)
    for number, path in steps:
        blocks = chain(path)
        assert index.match(blocks) == naive.match(blocks)
        if number == 4:
            index.forget(0)
            index.add_deployment(0, capacity)
            naive.lists.pop(0, None)
            continue
        index.touch(number, blocks)
        naive.touch(number, blocks)
        assert index.size(number) <= capacity
    assert sum(index.size(number) for number in range(4)) == sum(len(mine) for mine in naive.lists.values())
    for number in range(4):
        index.forget(number)
    assert index.blocks == 0
