"""Which journal is given up, and what it takes."""

from uuid import UUID

import pytest

from tokenworks.charging import (
    JournalCorrupt,
    NotConfirmed,
    check_confirmed,
    check_undamaged,
    journal_to_reset,
)
from tokenworks.kernel import NotFound

ONE, OTHER = UUID(int=1), UUID(int=2)


def test_nothing_is_given_up_that_was_not_named_twice():
    check_confirmed(ONE, ONE)
    for confirmed in (None, OTHER):
        with pytest.raises(NotConfirmed, match=str(ONE)):
            check_confirmed(ONE, confirmed)


def test_a_folder_without_a_journal_needs_the_name_of_one(tmp_path):
    assert journal_to_reset(tmp_path, OTHER) == (OTHER, False)
    with pytest.raises(NotFound, match="name the lost one"):
        journal_to_reset(tmp_path, None)


def test_damage_is_told():
    check_undamaged({"segments": [{"damage": None}]})
    check_undamaged({"segments": []})
    with pytest.raises(JournalCorrupt):
        check_undamaged({"segments": [{"damage": None}, {"damage": "a bad frame"}]})
