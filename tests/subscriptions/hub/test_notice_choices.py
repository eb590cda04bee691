"""Choices, addresses that are confirmed, and links that can't be forged."""

import base64
import contextlib
import threading
from datetime import timedelta

import pytest

from tests.support.notices import fan_out, person
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Conflict, Invalid, Refused, uuid7
from tokenworks.subscriptions import AddressNotFound, LinkInvalid, NoticeRequired, TooManyRequests
from tokenworks.subscriptions.hub import notice_address_store as store
from tokenworks.subscriptions.hub.notice_choices import (
    ACCOUNT_REQUESTS_MAX,
    ADDRESS_REQUESTS_MAX,
    NoticeChoices,
    check_email,
)
from tokenworks.subscriptions.hub.notice_kinds import KINDS
from tokenworks.subscriptions.hub.notice_model import NoticeSkipped
from tokenworks.trust.keys.store import made_under


@pytest.fixture
def works(services, session_dir, clock):
    """Services that can send mails."""
    clock.move(timedelta(hours=10))
    settings = load_settings(
        {"data_dir": str(session_dir / "seed"), "smtp_host": "mail.example", "smtp_from": "n@c.example", "public_url": "https://c.example"}
    ).settings  # fmt: skip
    return make_works(settings, services.connection, clock)


@pytest.fixture
def li(works):
    return works.subscriptions.register("+8613800000001", "Li", language="en")


def mails(works):
    """The mails that are due, as they would be sent; those that must not be are marked."""
    fan_out(works)
    found = []
    for delivery in works.notices.lease(["email"], 100):
        try:
            found.append(works.notices.message(delivery))
        except NoticeSkipped as skipped:
            works.notices.mark_skipped(delivery, skipped.cause)
        else:
            works.notices.mark_sent(delivery)
    return found


def confirmed(works, who, email="li@example.com"):
    works.notice_choices.ask_email(who, email)
    (asked,) = mails(works)
    works.notice_choices.confirm(asked.token)


def spend(works, subscriber, ref):
    content = {"percent": 50, "spent_nano": 10**9, "cap_nano": 2 * 10**9}
    works.subscriptions.notify(subscriber.subscriber_id, "spend", ref, content)


def test_nothing_but_the_link_is_sent_before_an_address_is_confirmed(works, li):
    who = person(li)
    works.notice_choices.ask_email(who, "li@Example.COM")
    spend(works, li, "1")
    (asked,) = mails(works)
    assert asked.to == "li@example.com" and "24 hours" in asked.text
    assert mails(works) == []
    works.notice_choices.confirm(asked.token)
    works.notice_choices.confirm(asked.token)  # a reader that opens the link twice
    spend(works, li, "2")
    (told,) = mails(works)
    assert "50%" in told.text and told.token
    # The address is nowhere in plain text, and no token is stored.
    for table in ("notice_address", "notice_request", "notification", "notice_delivery"):
        rows = str(works.connection.execute(f"SELECT t::text FROM {table} t").fetchall())
        assert "example.com" not in rows and asked.token not in rows


def test_a_link_of_yesterday_or_of_a_replaced_address_confirms_nothing(works, li, clock):
    who = person(li)
    works.notice_choices.ask_email(who, "li@example.com")
    (first,) = mails(works)
    works.notice_choices.ask_email(who, "li@other.example")
    with pytest.raises(LinkInvalid):
        works.notice_choices.confirm(first.token)
    (second,) = mails(works)
    clock.move(timedelta(days=1))
    with pytest.raises(LinkInvalid, match="too old"):
        works.notice_choices.confirm(second.token)
    assert works.notice_choices.address(li.subscriber_id, "email").confirmed_at is None


def test_a_new_address_gets_nothing_for_the_old_one_and_the_person_is_told(works, li):
    who = person(li)
    confirmed(works, who)
    spend(works, li, "1")
    fan_out(works)
    works.notice_choices.ask_email(who, "thief@example.net")
    assert [one.to for one in mails(works)] == ["thief@example.net"]  # the link alone
    told = {(one.channel, one.state) for one in works.notices.log()[0] if one.kind == "address.changed"}
    assert {("sms", "waits"), ("console", "sent")} <= told
    with pytest.raises(NoticeRequired):
        works.notice_choices.choose(who, {("address.changed", "sms"): False})


def test_one_click_ends_a_kind_by_mail_and_no_other(works, li):
    who = person(li)
    confirmed(works, who)
    spend(works, li, "1")
    (told,) = mails(works)
    assert works.notice_choices.unsubscribe(told.token) == (who, "spend")
    works.notice_choices.unsubscribe(told.token)
    spend(works, li, "2")
    works.subscriptions.notify(
        li.subscriber_id, "dunning.remind", "1", {"bill_no": "7", "remaining_nano": 10**9}
    )
    (other,) = mails(works)
    assert "bill 7" in other.text
    # What law demands is ended by mail as well: it still comes by text message.
    works.notice_choices.unsubscribe(other.token)
    works.subscriptions.notify(
        li.subscriber_id, "dunning.remind", "2", {"bill_no": "8", "remaining_nano": 10**9}
    )
    assert mails(works) == []
    assert [one.kind for one in works.notices.lease(["sms"], 100)].count("dunning.remind") == 2


def test_a_token_is_for_what_it_was_made_for(works, li):
    who = person(li)
    works.notice_choices.ask_email(who, "li@example.com")
    (asked,) = mails(works)
    with pytest.raises(LinkInvalid):
        works.notice_choices.unsubscribe(asked.token)
    works.notice_choices.confirm(asked.token)
    spend(works, li, "1")
    (told,) = mails(works)
    version, id_, _, mac = told.token.rsplit(".", 3)
    forged = (f"{version}.{id_}.sign_in.{mac}", f"9.{id_}.spend.{mac}", told.token[:-1] + "é", "", "x" * 500,
              told.token.replace(id_, "0" * 32), f"{told.token}=")  # fmt: skip
    for token in forged:
        for use in (works.notice_choices.unsubscribe, works.notice_choices.confirm):
            with pytest.raises(LinkInvalid):
                use(token)


def test_nobody_has_mails_sent_to_another_person_without_end(works, li):
    wu = works.subscriptions.register("+8613800000002", "Wu")
    for number in range(ADDRESS_REQUESTS_MAX):
        works.notice_choices.ask_email(person((li, wu)[number % 2]), "Victim@example.com")
    for who in (li, wu):
        with pytest.raises(TooManyRequests):
            works.notice_choices.ask_email(person(who), "victim@example.com")
    # The same mailbox under another name.
    with pytest.raises(TooManyRequests):
        works.notice_choices.ask_email(person(li), "Victim+2@example.com")
    with pytest.raises(TooManyRequests):
        for number in range(30):
            works.notice_choices.ask_email(person(li), f"victim{number}@example.com")
    works.clock.move(timedelta(days=1, seconds=1))
    works.notice_choices.ask_email(person(li), "victim@example.com")


def test_requests_of_one_account_at_one_moment_are_counted_together(
    works, li, database_url, clock, session_dir
):
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    for number in range(ACCOUNT_REQUESTS_MAX - 1):
        store.add_request(
            works.connection, uuid7(), li.subscriber_id, li.subscriber_id, bytes([number] * 16), clock.now()
        )
    refused = []

    def ask():
        with contextlib.closing(connect(database_url)) as connection:
            other = NoticeChoices(
                connection, {1: b"x" * 32}, clock, make_works(settings, connection, clock).vault,
                has_mail=True, allow_private=False, need_tls=False,
            )  # fmt: skip
            try:
                other.ask_email(person(li), "second@example.com")
            except TooManyRequests:
                refused.append(True)

    asking = threading.Thread(target=ask)
    with works.transaction():
        works.notice_choices.ask_email(person(li), "first@example.com")
        asking.start()
        asking.join(0.3)
    asking.join()
    assert refused == [True]


def test_a_retired_pepper_ends_links_and_not_the_mails_of_an_address(works, li, clock):
    who = person(li)
    confirmed(works, who)
    address = works.notice_choices.address(li.subscriber_id, "email")

    def choices(**peppers):
        return NoticeChoices(
            works.connection, {int(name[1:]): pepper for name, pepper in peppers.items()}, clock, works.vault,
            has_mail=True, allow_private=False, need_tls=False,
        )  # fmt: skip

    before, both, after = choices(v1=b"a" * 32), choices(v1=b"a" * 32, v2=b"b" * 32), choices(v2=b"b" * 32)
    old, new = (one.unsubscription(address, KINDS["spend"]) for one in (before, after))
    for token in (old, new):
        assert both.unsubscribe(token) == (who, "spend")
    assert after.unsubscribe(new) == (who, "spend")
    with pytest.raises(LinkInvalid):
        after.unsubscribe(old)


def test_a_pepper_that_signs_a_webhook_is_live(works, li, clock):
    what = "webhook(s) for notices"
    works.notice_choices.set_webhook(person(li), "https://hooks.example/a")
    version = works.notice_choices.address(li.subscriber_id, "webhook").pepper_version
    assert made_under(works.connection, version, clock.now())[what] == 1
    assert made_under(works.connection, version + 1, clock.now())[what] == 0
    works.notice_choices.remove(person(li), "webhook")
    assert made_under(works.connection, version, clock.now())[what] == 0


@pytest.mark.parametrize(
    "text",
    [
        "", "li", "li@", "@example.com", "li@example", "li@-example.com", "li@example..com", "a b@example.com", "li@example.com\n",
        "li@example.com\r\nBcc: a@b.example", "<li@example.com>", "li@[127.0.0.1]", '"a b"@example.com', "li@exämple.com", "lí@example.com",
        "li@example.com,wu@example.com", f"{'a' * 65}@example.com", f"li@{'a.' * 130}com", ".li@example.com", "li.@example.com", "li@1.2.3.4",
        "=?utf-8?b?5byg?=@example.com", "=?x?q?victim?=@example.com",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(text):
    with pytest.raises(Invalid):
        check_email(text)


def test_addresses_as_people_have_them():
    for text in ("li@example.com", "li.wei+ai@mail.example.co", "1@qq.com", "o'neil@example.museum"):
        assert check_email(text) == text


def test_without_an_smtp_server_no_address_is_taken(services):
    li = services.subscriptions.register("+8613800000001", "Li")
    with pytest.raises(Refused, match="smtp_host"):
        services.notice_choices.ask_email(person(li), "li@example.com")


# Choices.


def test_choices_are_all_or_none(works, li):
    who = person(li)
    with pytest.raises(NoticeRequired):
        works.notice_choices.choose(who, {("spend", "sms"): False, ("plan.move", "sms"): False})
    for place in (
        ("spend", "pigeon"),
        ("spending", "sms"),
        ("email.confirm", "email"),
        ("invitation", "sms"),
    ):
        with pytest.raises(Invalid):
            works.notice_choices.choose(who, {("spend", "sms"): False, place: True})
    assert all(one.wanted for one in works.notice_choices.of(who) if one.kind == "spend")
    works.notice_choices.choose(who, {("spend", "sms"): False, ("plan.move", "sms"): True})
    works.notice_choices.choose(who, {("spend", "email"): False})
    off = {
        (one.kind, one.channel)
        for one in works.notice_choices.of(who)
        if one.kind == "spend" and not one.wanted
    }
    assert off == {("spend", "sms"), ("spend", "email")}


# Webhooks.


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://[::1]/", "http://10.0.0.1/", "http://169.254.169.254/latest", "ftp://a.example/", "https://u:p@a.example/",
        "https://a.example/#f", "https://a.example/\r\nx", "https://", "http://[::ffff:10.0.0.1]/",
    ],
)  # fmt: skip
def test_a_webhook_is_at_a_public_address(works, li, url):
    with pytest.raises(Invalid):
        works.notice_choices.set_webhook(person(li), url)


def test_a_secret_is_rotated_with_an_overlap(works, li, clock):
    who = person(li)
    with pytest.raises(AddressNotFound):
        works.notice_choices.rotate(who)
    _, first = works.notice_choices.set_webhook(who, "https://hooks.example/a")
    key = base64.b64decode(first.removeprefix("whsec_"))
    secrets = lambda: works.notice_choices.signing_secrets(
        works.notice_choices.address(li.subscriber_id, "webhook")
    )
    assert first.startswith("whsec_") and secrets() == [key] and len(key) == 32
    second = base64.b64decode(works.notice_choices.rotate(who, timedelta(hours=1)).removeprefix("whsec_"))
    assert secrets() == [second, key] and second != key
    with pytest.raises(Conflict):
        works.notice_choices.rotate(who)
    clock.move(timedelta(hours=1))
    assert secrets() == [second]
    works.notice_choices.rotate(who, timedelta(0))
    assert len(secrets()) == 1 and secrets() != [second]
    works.notice_choices.remove(who, "webhook")
    with pytest.raises(AddressNotFound):
        works.notice_choices.remove(who, "webhook")
