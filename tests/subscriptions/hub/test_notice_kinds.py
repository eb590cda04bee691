"""The table of kinds: each has texts, what law or security demands can't be switched off, and nights are quiet."""

from datetime import UTC, datetime

import pytest

from tokenworks.subscriptions import BILLING_ZONE
from tokenworks.subscriptions.hub.notice_kinds import CHANNELS, CONFIRM, KINDS, kind_of, sms_at
from tokenworks.texts import CATALOGUES


def test_every_kind_has_a_text_and_a_title_in_every_language():
    for catalogue in CATALOGUES.values():
        assert set(catalogue.notices) == set(catalogue.notice_titles) == set(KINDS)


def test_what_is_required_is_a_channel_of_the_kind_and_has_a_default():
    for kind in KINDS.values():
        assert kind.required <= set(kind.channels) and kind.defaults & set(kind.channels), kind
        assert 1 <= kind.day_max <= 20
        for channel in CHANNELS:
            assert kind.wants(channel, False) == (channel in kind.required)
            assert kind.wants(channel, True) == (channel in kind.channels)
    # E-mail is always an addition, so that each mail but the first has a link that ends it.
    assert [kind.name for kind in KINDS.values() if "email" in kind.required] == [CONFIRM]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("marketing.spring", "marketing"), ("spend", "spend"), ("spending", None), ("", None)],
)
def test_a_name_is_of_one_kind_or_of_none(name, wanted):
    found = kind_of(name)
    assert (found and found.name) == wanted


@pytest.mark.parametrize(
    ("kind", "at", "sent"),
    [
        ("spend", (3, 12, 0), (3, 12, 0)),
        ("spend", (3, 22, 0), (4, 8, 0)),
        ("spend", (3, 7, 59), (3, 8, 0)),
        ("spend", (3, 8, 0), (3, 8, 0)),
        ("spend", (30, 23, 30), (31, 8, 0)),
        ("sign_in", (3, 2, 0), (3, 2, 0)),
    ],
)
def test_a_text_message_that_is_not_urgent_waits_for_the_morning(kind, at, sent):
    when, wanted = (datetime(2027, 5, d, h, m, tzinfo=BILLING_ZONE) for d, h, m in (at, sent))
    assert sms_at(KINDS[kind], when.astimezone(UTC)) == wanted
