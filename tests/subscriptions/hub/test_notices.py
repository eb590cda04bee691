"""A cause becomes one delivery for each person and channel; each of them is sent, or has a cause why not."""

import contextlib
import itertools
import threading
from datetime import timedelta

import pytest

from tests.support.notices import PORTS, channels, fan_out, person
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.hub import notices
from tokenworks.subscriptions.hub.notice_model import NoticeSkipped
from tokenworks.subscriptions.hub.notices import (
    ATTEMPTS_MAX,
    INVITATIONS_DAY_MAX,
    NoticeNotFound,
    NoticeNotResent,
)

ALL = ("sms", "email", "webhook")


@pytest.fixture
def li(services, clock):
    clock.move(timedelta(hours=10))
    return services.subscriptions.register("+8613800000001", "Li", language="en")


def spend(services, subscriber, ref="1"):
    content = {"percent": 50, "spent_nano": 10**9, "cap_nano": 2 * 10**9}
    return services.subscriptions.notify(subscriber.subscriber_id, "spend", ref, content)


def test_a_cause_is_one_delivery_a_channel_however_often_it_is_read(services, li):
    assert spend(services, li) and not spend(services, li)
    assert fan_out(services) == 1 and fan_out(services) == 0
    assert channels(services) == {("console", "sent", None), ("sms", "waits", None)}
    # Another host that reads the same notice adds nothing.
    services.connection.execute("UPDATE notification SET delivered_at = NULL")
    fan_out(services)
    assert len(services.notices.log()[0]) == 2


def test_a_cause_that_is_rolled_back_is_told_to_nobody(services, li):
    with services.transaction(dry_run=True):
        assert spend(services, li)
    assert fan_out(services) == 0


def test_managers_are_told_and_members_are_not(services, li):
    admin = services.members.invite(li, "+8613700000001", "Ann", role="admin")
    member = services.members.invite(li, "+8613700000002", "Mei")
    for one in (admin, member):
        services.members.accept(one.phone, one.member_id)
    services.connection.execute("DELETE FROM notification")
    spend(services, li)
    services.subscriptions.notify(li.subscriber_id, "credit_limit", "1", {"name": "Light", "name_zh": "轻"})
    fan_out(services)
    told = {(one.kind, one.person_id) for one in services.notices.log()[0]}
    assert told == {
        ("spend", li.subscriber_id),
        ("spend", admin.member_id),
        ("credit_limit", li.subscriber_id),
    }
    # An admin that is none any more by the time of sending gets nothing.
    services.members.leave(admin.phone, admin.member_id)
    skipped = []
    for delivery in services.notices.lease(["sms"], 10):
        try:
            assert services.notices.message(delivery).to == li.phone
        except NoticeSkipped as found:
            skipped.append((delivery.person_id, found.cause))
    assert skipped == [(admin.member_id, "no_member")]


def test_what_is_switched_off_is_not_made_and_not_sent(services, li):
    spend(services, li, "1")
    fan_out(services)
    (waits,) = services.notices.lease(["sms"], 10)
    services.notice_choices.choose(person(li), {("spend", "sms"): False})
    with pytest.raises(NoticeSkipped, match="not_wanted"):
        services.notices.message(waits)
    services.notices.mark_skipped(waits, "not_wanted")
    spend(services, li, "2")
    fan_out(services)
    assert channels(services) == {("console", "sent", None), ("sms", "skipped", "not_wanted")}


def test_more_than_a_day_may_have_is_skipped_with_its_cause(services, li):
    for number in range(12):
        spend(services, li, str(number))
    fan_out(services)
    found = [one for one in services.notices.log()[0] if one.channel == "sms"]
    assert sorted(one.cause or "" for one in found) == [""] * 10 + ["day_limit"] * 2
    services.clock.move(timedelta(days=1, seconds=1))
    spend(services, li, "next day")
    fan_out(services)
    assert services.notices.log()[0][0].state == "waits"


def test_an_account_can_not_text_the_world_with_invitations(services, li):
    made = INVITATIONS_DAY_MAX + 3
    for number in range(made):
        services.members.invite(li, f"+86137{number:08d}", f"guest {number}")
    while fan_out(services, limit=40):
        pass
    found = [one for one in services.notices.log(limit=1000)[0] if one.kind == "invitation"]
    assert sum(one.state == "waits" for one in found) <= INVITATIONS_DAY_MAX
    assert sum(one.cause == "day_limit" for one in found) >= 3


def test_two_campaigns_of_a_day_are_one_message(services, li):
    services.consents.keep(li, "marketing", given=True)
    for campaign, ref in (("spring", "1"), ("spring", "2"), ("summer", "1"), ("autumn", "1")):
        kind = f"marketing.{campaign}"
        services.subscriptions.notify(li.subscriber_id, kind, ref, {"said": "x", "said_zh": "x"})
        fan_out(services)
    assert services.notices.unread(li.subscriber_id) == 1


def test_marketing_and_kinds_of_other_releases(services, li):
    services.consents.keep(li, "marketing", given=True)
    assert services.subscriptions.notify(
        li.subscriber_id, "marketing.spring", "1", {"said": "x", "said_zh": "x"}
    )
    assert services.subscriptions.notify(li.subscriber_id, "from.tomorrow", "1", {})
    services.subscriptions.notify(li.subscriber_id, "sign_in", "garbled", {"person_id": "nobody"})
    services.consents.keep(li, "marketing", given=False)
    assert fan_out(services) == 3
    assert services.notices.log()[0] == []
    states = dict(services.connection.execute(
        "SELECT kind, (delivered_at IS NOT NULL, given_up_at IS NOT NULL)::text FROM notification"
    ).fetchall())  # fmt: skip
    assert states == {"marketing.spring": "(f,t)", "from.tomorrow": "(t,f)", "sign_in": "(f,f)"}
    # What can't be read blocks nothing behind it.
    spend(services, li)
    assert fan_out(services, limit=1) == 1


# Sending.


def test_a_failure_is_tried_again_with_growing_waits_and_ends_after_a_day(services, li, clock):
    spend(services, li)
    fan_out(services)
    tries, begun = [], clock.now()
    for _ in range(3300):  # more than a day and the longest wait
        for delivery in services.notices.lease(["sms"], 10):
            tries.append(clock.now() - begun)
            services.notices.mark_failed(delivery, "no_answer")
        clock.move(timedelta(seconds=30))
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] < timedelta(minutes=1) and max(gaps) < timedelta(minutes=80) and len(tries) < ATTEMPTS_MAX
    (failed,) = services.notices.log(state="failed")[0]
    assert failed.cause == "no_answer" and failed.ended_at - begun < timedelta(days=1, hours=2)
    assert services.notices.lease(["sms"], 10) == []


def test_an_urgent_notice_passes_those_of_a_bill_run(services, li):
    for number in range(3):
        spend(services, li, str(number))
    fan_out(services)
    for number in range(3, 6):
        spend(services, li, str(number))
    services.clock.move(timedelta(hours=5))
    services.subscriptions.notify(
        li.subscriber_id, "address.changed", "1", {"person_id": str(li.subscriber_id), "channel": "email"}
    )
    assert fan_out(services, limit=1) == 1
    first, *_ = services.notices.lease(["sms"], 1)
    assert first.kind == "address.changed"
    # Its age is counted from its cause.
    assert services.notices.standing()[0][1] == 5 * 3600


def test_staff_sends_again_what_failed_and_nothing_else(services, li):
    spend(services, li)
    fan_out(services)
    (leased,) = services.notices.lease(["sms"], 10)
    with pytest.raises(NoticeNotResent):
        services.notices.resend(leased.delivery_id)
    services.notices.mark_failed(leased, "http_400", for_good=True)
    assert services.notices.resend(leased.delivery_id).state == "waits"
    (again,) = services.notices.lease(["sms"], 10)
    services.notices.mark_sent(again)
    for delivery in services.notices.log()[0]:
        with pytest.raises(NoticeNotResent):
            services.notices.resend(delivery.delivery_id)
    with pytest.raises(NoticeNotFound):
        services.notices.resend(uuid7())


def test_a_lease_that_is_over_decides_nothing(services, li, clock):
    """The host that leased first hangs; another one sends. The late mark of the first changes nothing."""
    spend(services, li)
    fan_out(services)
    (first,) = services.notices.lease(["sms"], 10)
    assert services.notices.lease(["sms"], 10) == []
    clock.move(timedelta(seconds=61))
    (second,) = services.notices.lease(["sms"], 10)
    services.notices.mark_failed(first, "no_answer", for_good=True)
    services.notices.mark_sent(second)
    services.notices.mark_failed(first, "no_answer", for_good=True)
    assert channels(services) == {("console", "sent", None), ("sms", "sent", None)}


def test_what_waits_for_a_channel_that_is_gone_ends_after_a_day(services, li, clock):
    spend(services, li)
    fan_out(services)
    clock.move(timedelta(hours=23))
    services.notices.skip_without_port(("webhook",))
    assert ("sms", "waits", None) in channels(services)
    clock.move(timedelta(hours=2))
    services.notices.skip_without_port(("sms", "webhook"))
    assert ("sms", "waits", None) in channels(services)
    services.notices.skip_without_port(("webhook",))
    assert channels(services) == {("console", "sent", None), ("sms", "skipped", "no_port")}
    clock.move(timedelta(days=366))
    assert services.notices.forget_old() == 1


def test_a_number_of_another_holder_is_not_told(services, li):
    content = {"bill_no": "1", "remaining_nano": 10**9}
    services.subscriptions.notify(li.subscriber_id, "dunning.close", "1", content)
    services.subscriptions.change_owner(li, "Wu")
    fan_out(services)
    for delivery in services.notices.lease(["sms"], 10):
        if delivery.subscriber_id == li.subscriber_id:
            with pytest.raises(NoticeSkipped, match="no_address"):
                services.notices.message(delivery)


# The console.


def test_the_console_lists_counts_and_marks_a_persons_own_alone(services, li):
    wu = services.subscriptions.register("+8613800000002", "Wu")
    for number in range(3):
        spend(services, li, str(number))
    fan_out(services)
    found, count = services.notices.shown(li, li.subscriber_id, limit=2)
    assert (len(found), count, services.notices.unread(li.subscriber_id)) == (2, 3, 3)
    assert found[0].title == "Monthly spending" and "50%" in found[0].text
    newest, middle = found
    services.notices.mark_read(li.subscriber_id, newest.notice_id, read=True)
    with pytest.raises(NoticeNotFound):
        services.notices.mark_read(wu.subscriber_id, middle.notice_id, read=True)
    assert services.notices.mark_all_read(wu.subscriber_id, newest.notice_id) == 0
    assert services.notices.unread(li.subscriber_id) == 2
    # Up to what was seen: a notice that came meanwhile stays unread.
    assert services.notices.mark_all_read(li.subscriber_id, middle.notice_id) == 2
    services.notices.mark_read(li.subscriber_id, newest.notice_id, read=False)
    assert [one.notice_id for one in services.notices.shown(li, li.subscriber_id, unread=True)[0]] == [
        newest.notice_id
    ]


# Retention and erasure.


def test_old_notices_are_deleted_and_what_waits_is_kept(services, li, clock):
    spend(services, li, "old")
    fan_out(services)
    (waits,) = services.notices.lease(["sms"], 10)
    clock.move(timedelta(days=366))
    assert services.notices.forget_old() == 0
    services.notices.mark_failed(waits, "no_answer", for_good=True)
    spend(services, li, "new")
    assert services.notices.forget_old() == 1
    assert services.notices.log()[1] == 0
    assert services.connection.execute("SELECT ref FROM notification").fetchall() == [("new",)]


def test_old_notices_are_deleted_in_as_many_batches_as_it_takes(services, li, clock, monkeypatch):
    monkeypatch.setattr(notices, "OLD_BATCH", 2)
    for number in range(5):
        services.subscriptions.notify(li.subscriber_id, "from.tomorrow", str(number), {})
    fan_out(services)
    clock.move(timedelta(days=366))
    assert services.notices.forget_old() == 5 and services.notices.forget_old() == 0


def test_an_erasure_waits_for_deliveries_that_are_made_at_the_moment(services, li, database_url, session_dir):
    spend(services, li)
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings

    def erase():
        with contextlib.closing(connect(database_url)) as connection:
            erasing = make_works(settings, connection, services.clock)
            with erasing.transaction():
                erasing.notices.forget(li)

    other = threading.Thread(target=erase)
    with services.transaction():
        services.notices.fan_out(10, PORTS)
        other.start()
        other.join(0.3)
    other.join()
    assert services.notices.log()[1] == 0


def test_an_erased_person_gets_nothing_more_and_leaves_nothing(services, li):
    services.notice_choices.choose(person(li), {("spend", "sms"): False})
    services.notice_choices.set_webhook(person(li), "https://hooks.example/a")
    spend(services, li)
    fan_out(services)
    spend(services, li, "2")
    assert services.privacy.erase(li, even_if_owed=True).state == "erased"
    assert fan_out(services) == 0 and services.notices.log()[1] == 0
    for table in ("notice_choice", "notice_address", "notice_request"):
        assert services.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_member_exports_and_erases_its_own(services, li):
    made = services.members.invite(li, "+8613700000001", "Mei")
    mei = services.members.accept(made.phone, made.member_id)
    services.access.issue_key(li, mei.member_id, "tablet")
    services.notice_choices.set_webhook(person(li, mei), "https://hooks.example/mei")
    fan_out(services)
    exported = b"".join(services.privacy.members.export(mei))
    assert b"hooks.example/mei" in exported and b"key.made" in exported
    owners = b"".join(services.privacy.export(li))
    assert b"hooks.example" not in owners and b'"notice_address"' in owners
    services.privacy.members.erase(mei)
    assert services.notice_choices.address(mei.member_id, "webhook") is None
    assert {one.person_id for one in services.notices.log()[0]} <= {li.subscriber_id}


def test_what_waits_and_what_failed_is_counted_for_the_alert(services, li, clock):
    spend(services, li, "1")
    spend(services, li, "2")
    fan_out(services)
    clock.move(timedelta(hours=2))
    first, _ = services.notices.lease(["sms"], 10)
    services.notices.mark_failed(first, "no_answer", for_good=True)
    clock.move(timedelta(minutes=2))
    assert services.notices.standing() == [("sms", 7320, 1), ("email", 0, 0), ("webhook", 0, 0)]
    clock.move(timedelta(days=2))
    assert services.notices.standing()[0][2] == 0
