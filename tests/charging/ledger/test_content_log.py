"""The log of content on real PostgreSQL: encrypted, bounded by account and by time, gone with its person."""

import contextlib
import json
import threading
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.charging import ContentLog, ContentLogLimits, ContentNotLogged, ContentToLog
from tokenworks.kernel import uuid7

LIMITS = ContentLogLimits(days=7, entry_bytes_max=100, account_bytes_max=1000, account_entries_max=10)
KEY = uuid7()


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def content(services, clock):
    return ContentLog(services.connection, clock, services.vault, LIMITS)


def on():
    return True


def logged(subscriber, text=b"open sesame", answer=b"hello", key=KEY, member=None):
    return ContentToLog(
        subscriber.account_id.hex, uuid7().hex, key.hex, (member or KEY).hex, "chat", "m", "complete", 1000, 2000, text, answer
    )  # fmt: skip


def rows(services):
    return services.connection.execute(
        "SELECT count(*), coalesce(sum(stored_bytes), 0) FROM content_log"
    ).fetchone()


def test_an_entry_is_read_as_it_was_sent_and_lies_encrypted(services, content, li):
    entry = logged(li)
    assert content.keep(entry, li.subscriber_id, on) and not content.keep(entry, li.subscriber_id, on), "once"
    (found,) = content.entries(li.account_id, KEY)
    assert (found.request_id.hex, found.request_bytes, found.answer_bytes) == (entry.request_id, 1000, 2000)
    assert found.expires_at - found.made_at == timedelta(days=7)
    read = content.read(li.account_id, KEY, found.request_id)
    assert (read.entry, read.request, read.answer) == (found, b"open sesame", b"hello")
    (row,) = services.connection.execute("SELECT content_log::text FROM content_log").fetchall()
    assert b"open sesame".hex() not in row[0] and b"hello".hex() not in row[0] and "sesame" not in row[0]
    services.connection.execute(
        "UPDATE content_log SET request_sealed = answer_sealed, answer_sealed = request_sealed"
    )
    with pytest.raises(Exception, match=r".*"):
        content.read(li.account_id, KEY, found.request_id)


def test_an_entry_is_found_by_its_own_account_and_key_alone(services, content, li):
    other = services.subscriptions.register("+8613800000002", "Wu")
    entry = logged(li)
    content.keep(entry, li.subscriber_id, on)
    id_ = UUID(entry.request_id)
    for account, key in ((other.account_id, KEY), (li.account_id, uuid7())):
        assert content.entries(account, key) == [] and content.delete(account, key) == 0
        with pytest.raises(ContentNotLogged):
            content.read(account, key, id_)
    assert content.delete(li.account_id, KEY, uuid7()) == 0
    assert content.delete(li.account_id, KEY, id_) == 1 and content.entries(li.account_id, KEY) == []


def test_the_list_goes_on_from_the_last_one(content, li):
    ids = []
    for _ in range(5):
        entry = logged(li, b"")
        content.keep(entry, li.subscriber_id, on)
        ids.insert(0, UUID(entry.request_id))
    first = content.entries(li.account_id, KEY, limit=3)
    more = content.entries(li.account_id, KEY, first[-1].request_id, 3)
    assert [entry.request_id for entry in (*first, *more)] == ids


def test_what_is_stored_stays_within_its_limits_and_the_oldest_make_room(services, clock, content, li):
    assert not content.keep(logged(li, b"x" * 101, b""), li.subscriber_id, on)
    ids = []
    for _ in range(30):
        entry = logged(li, b"x" * 60, b"y" * 40)
        assert content.keep(entry, li.subscriber_id, on)
        ids.insert(0, entry.request_id)
        assert rows(services)[1] <= LIMITS.account_bytes_max
    left = [entry.request_id.hex for entry in content.entries(li.account_id, KEY)]
    assert 2 <= len(left) < 10 and left == ids[: len(left)]
    none = ContentLog(services.connection, clock, services.vault, replace(LIMITS, account_bytes_max=50))
    assert not none.keep(logged(li), li.subscriber_id, on) and rows(services)[0] == len(left)
    off = ContentLog(services.connection, clock, services.vault, replace(LIMITS, days=0))
    assert not off.keep(logged(li), li.subscriber_id, on)
    with pytest.raises(AssertionError):
        ContentLog(services.connection, clock, services.vault, replace(LIMITS, days=31))


def test_an_entry_is_not_shown_after_its_time_and_then_deleted(services, clock, content, li):
    entry = logged(li)
    content.keep(entry, li.subscriber_id, on)
    clock.move(timedelta(days=7))
    assert content.entries(li.account_id, KEY) == []
    with pytest.raises(ContentNotLogged):
        content.read(li.account_id, KEY, UUID(entry.request_id))
    content.keep(logged(li), li.subscriber_id, on)
    assert content.delete_over() == 1 and rows(services)[0] == 1


def test_an_erasure_takes_the_entries_with_it(services, content, li):
    child = services.members.invite(li, "+8613911112222", "Child")
    content.keep(logged(li, member=child.member_id), li.subscriber_id, on)
    content.keep(logged(li), li.subscriber_id, on)
    services.privacy.members.erase(child)
    assert rows(services)[0] == 1
    services.privacy.erase(li)
    assert rows(services)[0] == 0
    assert not content.keep(logged(li), li.subscriber_id, on), "its key is destroyed"


def test_entries_are_few_in_number_too(services, content, li):
    ids = []
    for _ in range(13):
        entry = logged(li, b"", b"")
        assert content.keep(entry, li.subscriber_id, on)
        ids.insert(0, entry.request_id)
    assert [entry.request_id.hex for entry in content.entries(li.account_id, KEY)] == ids[:10]


@pytest.mark.parametrize("deletes", ["delete", "forget_account", "forget_member"])
def test_no_entry_comes_after_its_deletion(services, content, clock, li, database_url, deletes):
    """A key's log is turned off and its entries deleted while another host stores one."""
    child = services.members.invite(li, "+8613911112222", "Child")
    asked, go_on, counts = threading.Event(), threading.Event(), []
    with contextlib.closing(connect(database_url)) as other:
        host = make_works(services._settings, other, clock).content_log

        def is_on():
            asked.set()
            return go_on.wait(5)

        entry = logged(li, member=child.member_id)
        storing = threading.Thread(target=lambda: counts.append(host.keep(entry, li.subscriber_id, is_on)))
        storing.start()
        assert asked.wait(5)
        arguments = {"delete": (li.account_id, KEY), "forget_account": (li.account_id,), "forget_member": (li.account_id, child.member_id)}  # fmt: skip
        deleting = threading.Thread(target=getattr(content, deletes), args=arguments[deletes])
        deleting.start()
        deleting.join(0.1)
        go_on.set()
        deleting.join(5)
        storing.join(5)
    assert counts == [True] and rows(services)[0] == 0
    assert not content.keep(logged(li), li.subscriber_id, lambda: False) and rows(services)[0] == 0


def test_it_is_exported_even_where_it_was_cut_within_a_character(services, li):
    log, said = services.content_log, "\u4f60\u597d".encode()
    child = services.members.invite(li, "+8613911112222", "Child")
    for number in range(12):
        entry = logged(li, said[:-1], b"\xff%d" % number, member=child.member_id)
        assert log.keep(entry, li.subscriber_id, on)
    assert log.keep(logged(li), li.subscriber_id, on)
    wanted = [("\u4f60\ufffd", f"\ufffd{number}") for number in range(12)]
    found = json.loads(b"".join(services.privacy.export(li)))["tables"]["content_log"]
    assert sorted((row["request"], row["answer"]) for row in found) == sorted([*wanted, ("open sesame", "hello")])  # fmt: skip
    found = json.loads(b"".join(services.privacy.members.export(child)))["content_log"]
    assert [(row["request"], row["answer"]) for row in found] == wanted and found[0]["outcome"] == "complete"
