"""Keyed hashes of identity documents: one for one person, under a pepper, found again under the next one."""

import pytest

from tokenworks.kernel import Invalid
from tokenworks.trust import Persons

OLD, NEW = b"o" * 32, b"n" * 32
ID = "11010519491231002X"


def test_one_number_has_one_hash_however_it_is_written():
    persons = Persons({1: OLD})
    (found,) = persons.hashes("resident_id", ID)
    for text in ("11010519491231002x", "110105 1949-1231 002X", "１１０１０５１９４９１２３１００２Ｘ"):
        assert persons.hashes("resident_id", text) == [found]
    assert persons.hashes("passport", ID) != [found]
    assert Persons({1: NEW}).hashes("resident_id", ID) != [found]
    assert ID.encode() not in found and len(found) == 32


def test_with_a_new_pepper_what_the_old_one_made_is_found():
    (before,) = Persons({1: OLD}).hashes("resident_id", ID)
    now = Persons({1: OLD, 2: NEW}).hashes("resident_id", ID)
    assert now[1] == before and now[0] == Persons({2: NEW}).hashes("resident_id", ID)[0]


@pytest.mark.parametrize(
    ("document", "number"),
    [
        ("resident_id", "110105194912310021"), ("resident_id", "11010519491231002"), ("resident_id", ""), ("resident_id", "X" * 18),
        ("resident_id", "1" * 10_000), ("passport", "E1\x00234"), ("passport", "E12\n345"), ("passport", "护照12345"), ("passport", "A1"),
        ("licence", "12345678"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused_and_not_repeated(document, number):
    with pytest.raises(Invalid) as caught:
        Persons({1: OLD}).hashes(document, number)
    assert not number or number not in str(caught.value)
