"""What a role may do in an account."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tokenworks.kernel import Invalid
from tokenworks.subscriptions import (
    Member,
    Subscriber,
    check_control,
    check_invited_role,
    check_last_digits,
    check_own_broadband,
    check_own_lift,
    check_rank,
    may_manage,
)
from tokenworks.trust import NotAllowed

YUAN = 10**9
AT = datetime(2027, 4, 1, tzinfo=UTC)


def subscriber(**more):
    return Subscriber(uuid4(), uuid4(), "+8613800000001", "Li", AT, cap_nano=100 * YUAN, **more)


def member(role):
    return Member(uuid4(), uuid4(), uuid4(), "Mei", role, None, None, None, AT)


@pytest.mark.parametrize(
    ("of", "wanted", "admin_may"),
    [
        ({}, {"cap_nano": 99 * YUAN}, True),
        ({}, {"cap_nano": 100 * YUAN}, True),
        ({}, {"cap_nano": 101 * YUAN}, False),
        ({}, {"locked": True}, True),
        ({"spend_locked": True}, {"locked": False}, False),
        ({}, {"locked": False}, True),
        ({}, {"spill_over": True}, False),
        ({"spill_over": True}, {"spill_over": True}, True),
        ({"spill_over": True}, {"spill_over": False}, True),
        ({}, {"consents": True}, False),
        ({}, {"regions": True}, False),
        ({}, {}, True),
    ],
)
def test_an_admin_lowers_and_never_raises(of, wanted, admin_may):
    check_control("owner", subscriber(**of), **wanted)
    check_control("operator", subscriber(**of), **wanted)
    if admin_may:
        check_control("admin", subscriber(**of), **wanted)
    else:
        with pytest.raises(NotAllowed):
            check_control("admin", subscriber(**of), **wanted)


@pytest.mark.parametrize("role", ["owner", "admin", "member", "department"])
def test_an_admin_manages_those_below(role):
    assert may_manage("owner", member(role))
    assert may_manage("admin", member(role)) == (role in {"member", "department"})
    check_rank("owner", member(role))
    if not may_manage("admin", member(role)):
        with pytest.raises(NotAllowed):
            check_rank("admin", member(role))
    assert member(role).can_leave == (role in {"admin", "member"})


def test_the_owner_alone_makes_an_admin():
    check_invited_role("owner", "admin")
    check_invited_role("admin", "member")
    with pytest.raises(Invalid):
        check_invited_role("admin", "admin")


def test_what_is_ones_own():
    check_own_lift("own_wish")
    with pytest.raises(NotAllowed):
        check_own_lift("lost_phone")
    check_own_broadband(subscriber(), "sh123456")
    check_own_broadband(subscriber(broadband="sh123456"), "sh123456")
    check_own_broadband(subscriber(broadband="sh123456"), None)
    with pytest.raises(NotAllowed):
        check_own_broadband(subscriber(broadband="sh123456"), "sh654321")


@pytest.mark.parametrize("digits", ["", "1", "001", "00001", "0002", "００01", "abcd"])
def test_the_last_digits_are_four_and_the_numbers_own(digits):
    check_last_digits("+8613800000001", "0001")
    with pytest.raises(Invalid):
        check_last_digits("+8613800000001", digits)
    with pytest.raises(Invalid):
        check_last_digits(None, "0001")
