"""Numbers of identity documents: one text for one number, however it is written, and none for what is no number."""

import pytest

from tokenworks.kernel import Invalid
from tokenworks.trust import checked_id_number
from tokenworks.trust.vault.lookup import Lookup

ID = "11010519491231002X"


def test_one_number_has_one_hash_however_it_is_written():
    lookup = Lookup(b"k" * 32)
    found = lookup.identity(checked_id_number("resident_id", ID))
    for text in ("11010519491231002x", "110105 1949-1231 002X", "１１０１０５１９４９１２３１００２Ｘ"):
        assert lookup.identity(checked_id_number("resident_id", text)) == found
        # The real-name check, which is told no kind of document, makes the same one.
        assert lookup.identity(text) == found
    assert Lookup(b"n" * 32).identity(ID) != found
    assert ID.encode() not in found


@pytest.mark.parametrize(
    ("document", "number"),
    [
        ("resident_id", "110105194912310021"), ("resident_id", "11010519491231002"), ("resident_id", ""), ("resident_id", "X" * 18),
        ("resident_id", "1" * 10_000), ("passport", "E1\x00234"), ("passport", "E1+2345"), ("passport", "护照12345"), ("passport", "A1"),
        ("licence", "12345678"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused_and_not_repeated(document, number):
    with pytest.raises(Invalid) as caught:
        checked_id_number(document, number)
    assert not number or number not in str(caught.value)
