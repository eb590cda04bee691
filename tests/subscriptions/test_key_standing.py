"""What a key's holder may know: its own buckets, caps and limits, and no other member's."""

import pytest

from tests.charging.ledger.test_day_store import add
from tokenworks.subscriptions import key_standing
from tokenworks.trust import NotSignedIn


@pytest.fixture
def li(services):
    made = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(made, "ctc-light")
    return made


def test_a_key_sees_its_caps_and_the_accounts_balances(services, li):
    key_id, text = services.access.issue_key(li, None, "mine", cap_tokens=500, fallbacks=["a", "b", "a"])
    services.access.issue_key(li, None, "other", cap_tokens=700)
    services.ledger.set_limit(
        "key", str(key_id), li.account_id, requests_per_min=9, tokens_per_min=None, streams_max=None
    )
    served = services.key_standings.find(text)
    standing = services.key_standings.read(served)
    assert (served.key.key_id, served.key.fallbacks, standing.info.name) == (key_id, ("a", "b"), "mine")
    assert [bucket.total for bucket in standing.caps] == [500_000]
    assert standing.balances and all(bucket.kind in {"balance", "window"} for bucket in standing.balances)
    assert [(scope, limit.requests_per_min) for scope, limit in standing.limits] == [("key", 9)]
    assert standing.today == standing.month == standing.key_today == standing.key_month == []


def test_what_is_no_live_key_opens_nothing(services, li):
    key_id, text = services.access.issue_key(li, None, "mine")
    for wrong in ("", "twk_test_x", text[:-1], text + "0"):
        with pytest.raises(NotSignedIn):
            services.key_standings.find(wrong)
    services.keys.revoke(key_id)
    with pytest.raises(NotSignedIn):
        services.key_standings.find(text)


def test_of_more_records_than_are_summed_the_total_of_the_month_is_still_exact(services, li, monkeypatch):
    key_id, text = services.access.issue_key(li, None, "mine")
    served = services.key_standings.find(text)
    now = services.clock.now()
    for n in (3, 4):
        add(services.connection, li.account_id, served.key.member_id, now, n)
    add(services.connection, li.account_id, li.account_id, now, 50)  # another member's
    summed = services.key_standings.read(served)
    assert [found.records for found in summed.month] == [2] and summed.drawn_month == {"token": 7000}
    monkeypatch.setattr(key_standing, "KEY_RECORDS_MAX", 2)
    standing = services.key_standings.read(served)
    assert standing.today is standing.month is standing.key_today is standing.key_month is None
    assert standing.drawn_month == summed.drawn_month
