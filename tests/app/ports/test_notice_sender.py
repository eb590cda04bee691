"""Notices go out by every channel, once and signed; a receiver that fails delays no other, and no log or row has an address."""

import base64
import hashlib
import hmac
import json
import threading
from datetime import timedelta

import pytest

from tests.support.notices import channels, person
from tests.support.receiver import Receiver
from tests.support.smtp import SmtpServer
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.ports import notice_sender
from tokenworks.app.ports.notice_sender import NoticeTurn, webhook_headers
from tokenworks.app.settings import load_settings
from tokenworks.subscriptions import CONFIRM


@pytest.fixture
def smtp(tmp_path):
    with SmtpServer(tmp_path, "starttls") as server:
        yield server


@pytest.fixture
def hook():
    with Receiver() as made:
        yield made


@pytest.fixture
def world(services, session_dir, clock, smtp, hook):
    """(services that send everything, their settings)"""
    clock.move(timedelta(hours=10))
    settings = load_settings({
        "data_dir": str(session_dir / "seed"), **smtp.settings(), "sms_url": f"{hook.url}/sms", "webhook_allow_private": True,
        "notice_webhook_allow_private": True,
    }).settings  # fmt: skip
    return make_works(settings, services.connection, clock), settings


@pytest.fixture
def li(world):
    return world[0].subscriptions.register("+8613800000001", "Li", language="en")


def turn(world):
    made = NoticeTurn(*world)
    made.run()
    return made.arrived


def spend(services, subscriber, ref="1"):
    content = {"percent": 50, "spent_nano": 10**9, "cap_nano": 2 * 10**9}
    services.subscriptions.notify(subscriber.subscriber_id, "spend", ref, content)


def link_of(mail):
    (line,) = [line for line in mail.get_content().splitlines() if "token=" in line]
    return line.rpartition("token=")[2]


def confirm(world, smtp, who, email="li@example.com"):
    world[0].notice_choices.ask_email(who, email)
    turn(world)
    world[0].notice_choices.confirm(link_of(smtp.mails[-1][2]))


def test_a_notice_goes_by_every_channel_once(world, li, smtp, hook, capfd):
    services, _ = world
    confirm(world, smtp, person(li))
    _, secret = services.notice_choices.set_webhook(person(li), f"{hook.url}/mine?k=s3cret")
    turn(world)
    hook.got.clear()
    smtp.mails.clear()
    spend(services, li)
    assert turn(world) == 3 and turn(world) == 0
    (_, sms_headers, sms), (path, headers, body) = sorted(hook.got, reverse=True)
    assert json.loads(sms)["phone"] == li.phone and sms_headers["Idempotency-Key"]
    assert path == "/mine?k=s3cret"
    # As a verifier of Standard Webhooks reads it.
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    said = json.loads(body)
    assert (said["type"], said["data"]["content"]["percent"]) == ("notice.spend", 50)
    ((to, _, mail),) = smtp.mails
    assert to == ["li@example.com"] and mail["Subject"] == "Tokenworks: Monthly spending"
    assert "50% of your cap" in mail.get_content()
    assert (
        mail["List-Unsubscribe"]
        == f"<https://tokens.carrier.example/api/notices/unsubscribe?token={link_of(mail)}>"
    )
    assert services.notice_choices.unsubscribe(link_of(mail))[1] == "spend"
    out = "".join(capfd.readouterr())
    for private in (li.phone, "li@example.com", "s3cret", link_of(mail)):
        assert private not in out


def test_one_channel_that_is_away_delays_no_other(world, li, smtp, hook):
    services, _ = world
    confirm(world, smtp, person(li))
    hook.got.clear()
    smtp.answers = {"MAIL": ["421 not now"] * 100}
    spend(services, li)
    assert turn(world) == 1
    assert ("email", "waits", "smtp_421") in channels(services)
    hook.answers += [(500, {}, b"")] * 100
    spend(services, li, "2")
    assert turn(world) == 0
    smtp.answers.clear()
    services.clock.move(timedelta(hours=2))
    assert turn(world) >= 2  # both mails, while text messages fail


def test_a_receiver_that_refuses_for_good_is_not_asked_again(world, li, smtp, hook):
    services, _ = world
    confirm(world, smtp, person(li))
    services.notice_choices.set_webhook(person(li), f"{hook.url}/mine")
    turn(world)
    spend(services, li)
    smtp.answers = {"RCPT": ["550 li@example.com is unknown"]}
    hook.answers += [(204, {}, b""), (410, {}, b"")]
    turn(world)
    found = {(one.channel, one.state, one.cause) for one in services.notices.log()[0] if one.kind == "spend"}
    assert {("email", "failed", "smtp_550"), ("webhook", "failed", "http_410")} <= found
    rows = services.connection.execute("SELECT t::text FROM notice_delivery t").fetchall()
    assert "example.com" not in str(rows) and "127.0.0.1" not in str(rows)


def test_slow_webhooks_of_many_delay_no_one_beyond_a_turn(world, smtp, hook):
    services, _ = world
    people = [services.subscriptions.register(f"+86138000001{n:02d}", f"p{n}") for n in range(12)]
    for one in people:
        services.notice_choices.set_webhook(person(one), f"{hook.url}/{one.phone}")
    turn(world)
    with Receiver() as silent:
        silent.drips.set()
        for one in people[:8]:
            services.connection.execute(
                "DELETE FROM notification WHERE subscriber_id = %s", (one.subscriber_id,)
            )
            services.notice_choices.set_webhook(person(one), silent.url)
        hook.got.clear()
        for one in people:
            spend(services, one)
        turn(world)
    assert sum(path.startswith("/+86") for path, _, _ in hook.got) == 4


def test_one_with_many_notices_takes_no_turn_of_another(world, li, hook, monkeypatch):
    """The oldest batch is of one person alone: by webhook all but one of it wait, by text message nothing of it is wanted."""
    services, _ = world
    wu = services.subscriptions.register("+8613800000002", "Wu", language="en")
    for one in (li, wu):
        services.notice_choices.set_webhook(person(one), f"{hook.url}/{one.phone}")
    turn(world)
    monkeypatch.setattr(notice_sender, "BATCH", 2)
    for number in range(4):
        spend(services, li, str(number))
    with services.transaction():
        services.notices.fan_out(10, ("sms", "webhook"))
    services.notice_choices.choose(person(li), {("spend", "sms"): False})
    services.clock.move(timedelta(seconds=1))
    spend(services, wu)
    hook.got.clear()
    turn(world)
    assert sorted(path for path, _, _ in hook.got) == [f"/{li.phone}", f"/{wu.phone}", "/sms"]


def test_a_private_webhook_is_refused_when_it_is_sent_too(world, li, hook):
    services, settings = world
    services.notice_choices.set_webhook(person(li), f"{hook.url}/mine")
    services.connection.execute("DELETE FROM notification")
    spend(services, li)
    public = settings.model_copy(update={"notice_webhook_allow_private": False})
    NoticeTurn(services, public).run()
    assert [path for path, _, _ in hook.got if path == "/mine"] == []
    assert ("webhook", "waits", "no_answer") in channels(services)


def test_two_hosts_send_each_delivery_once(world, smtp, hook, database_url):
    services, settings = world
    for n in range(20):
        spend(services, services.subscriptions.register(f"+86138000002{n:02d}", f"p{n}"))
    hook.got.clear()

    def host():
        connection = connect(database_url)
        try:
            NoticeTurn(make_works(settings, connection, services.clock), settings).run()
        finally:
            connection.close()

    hosts = [threading.Thread(target=host) for _ in range(2)]
    for one in hosts:
        one.start()
    for one in hosts:
        one.join()
    turn(world)
    keys = [headers["Idempotency-Key"] for _, headers, _ in hook.got]
    assert len(keys) == len(set(keys)) == 20
    assert services.notices.log()[1] == 40


def test_the_operators_webhook_gets_every_kind_but_no_link(world, li, hook):
    services, settings = world
    services.notice_choices.ask_email(person(li), "li@example.com")
    services.subscriptions.notify(li.subscriber_id, "from.tomorrow", "1", {})
    spend(services, li)
    NoticeTurn(services, settings.model_copy(update={"webhook_url": f"{hook.url}/ours"})).fan_out()
    kinds = {one.event_type for one in services.hub.log()[0]}
    assert {"notice.spend", "notice.from.tomorrow"} <= kinds and f"notice.{CONFIRM}" not in kinds


def test_the_example_of_standard_webhooks_has_its_signature():
    """The vector of the specification's own libraries (standard-webhooks 1.0.0)."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
