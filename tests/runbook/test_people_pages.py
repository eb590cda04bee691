"""Pages about people, and about those who are told of what happens."""

import json

from tests.runbook.book import scenario
from tests.support.receiver import Receiver
from tests.support.server import PHONES, until
from tokenworks.app.bootstrap import make_works
from tokenworks.app.webhook_secrets import webhook_secret


@scenario("Personal data")
def test_a_person_is_shown_what_is_stored_and_erased(host, shell, tmp_path):
    subscriber = host.services.subscriptions.register(f"+86{next(PHONES)}", "Zhang Wei")
    to, other = tmp_path / "export.zip", tmp_path / "other"
    other.mkdir()
    with shell.page("Personal data") as page:
        said = page.run("vault rewrap", SECRETS=host.settings.secrets, OTHER_SECRETS=other)
        (wrap,) = other.iterdir()
        assert (wrap.name, wrap.stat().st_mode & 0o777) == ("person-wrap-2", 0o600) and "wrapped" in said
        assert wrap.read_bytes() == (host.settings.secrets / wrap.name).read_bytes()
        # What the test's own rooms have of the secrets is of before.
        host.services = make_works(host.settings, host.connection)
        page.run("subscriber export", SUBSCRIBER=subscriber.subscriber_id, FILE=to)
        assert to.stat().st_size > 0
        page.run("subscriber erase", SUBSCRIBER=subscriber.subscriber_id)
    until(
        lambda: host.services.subscriptions.find(str(subscriber.subscriber_id)).phone_masked == "(erased)",
        60,
        what="the person to be erased",
    )
    assert host.findings() == []


@scenario("Notices do not arrive")
def test_a_notice_that_does_not_arrive_is_sent_again(host, shell, tmp_path):
    secrets, other = host.settings.secrets, tmp_path / "other"
    other.mkdir()
    webhook_secret(host.settings)  # is made at the first need
    before = (secrets / "webhook-secret").read_bytes()
    log = lambda: json.loads(host.cli("webhook", "log", "--json").stdout)
    with Receiver() as receiver:
        receiver.answers += [(500, {}, b"")] * 50
        listener, _ = host.services.hub.subscribe("productOrdering", f"{receiver.url}/orders", "", "test")
        host.subscriber()
        until(lambda: any(one["status"] == 500 for one in log()), 60, what="deliveries that wait")
        with host.owner() as owner:
            # One of them has been tried for a day.
            (given_up,) = owner.execute(
                "UPDATE hub_delivery SET given_up_at = now() WHERE delivery_id = (SELECT delivery_id FROM hub_delivery"
                " WHERE listener_id = %s AND status = 500 LIMIT 1) RETURNING delivery_id", (listener.listener_id,)
            ).fetchone()  # fmt: skip
        receiver.answers.clear()
        with shell.page("Notices do not arrive") as page:
            said = page.run("webhook log")
            assert str(listener.listener_id) in said and "answers 500" in said and str(given_up) in said
            page.run("webhook replay", DELIVERY=given_up)
            skipped = lambda: json.loads(host.cli("notice", "list", "--state", "skipped", "--json").stdout)
            told = host.services.subscriptions.register(f"+86{next(PHONES)}", "Zhang Wei")
            content = {"percent": 50, "spent_nano": 10**9, "cap_nano": 2 * 10**9}
            host.services.subscriptions.notify(told.subscriber_id, "spend", "1", content)
            until(
                lambda: any(one["kind"] == "spend" for one in skipped()), 60, what="a notice without a port"
            )
            notice = next(one["delivery_id"] for one in skipped() if one["kind"] == "spend")
            listed = page.run("notice list")
            assert notice in listed and "no_port" in listed
            page.run("notice resend", NOTICE=notice)
            page.run("webhook rotate", LISTENER=listener.listener_id)
            page.run("webhook-secret-old", SECRETS=secrets, OTHER_SECRETS=other)
        assert {path.name: path.stat().st_mode & 0o777 for path in other.iterdir()} == {
            "webhook-secret": 0o600, "webhook-secret-old": 0o600
        }  # fmt: skip
        assert (
            (other / "webhook-secret-old").read_bytes() == before != (other / "webhook-secret").read_bytes()
        )
        host.subscriber()
        until(
            lambda: any(one["delivery_id"] == str(given_up) and one["delivered_at"] for one in log()),
            60,
            what="its delivery",
        )
        first = next(body for _, _, body in receiver.got if body == receiver.got[-1][2])
        assert receiver.got[-1][2] == first
        until(lambda: 2 in signatures(receiver), 60, what="what is signed with both secrets")
        assert 1 in signatures(receiver), "as it was before"
        host.cli("webhook", "remove", str(listener.listener_id))


def signatures(receiver):
    """How many each delivery came with."""
    heads = [{name.lower(): value for name, value in head.items()} for _, head, _ in receiver.got]
    return [head["x-tokenworks-signature"].count("v1=") for head in heads]


@scenario("A staff token has ended")
def test_a_staff_token_that_has_ended_is_made_anew(host, shell):
    name = "Chen"
    tokens = [host.services.identity.add_staff(name, "auditor")]
    looks = lambda: [host.get("/api/operations/audit", token)[0] for token in tokens]
    assert looks() == [200]
    with shell.page("A staff token has ended") as page:
        said = page.run("staff rotate", NAME=name)
        listed, _, new = said.partition("shown this once:")
        assert name in listed and new.strip()
        tokens.append(new.strip())
    assert looks() == [200, 200], "the one of before is good for the overlap"
    # As a day later.
    with host.owner() as owner:
        owner.execute(
            "UPDATE staff_token t SET created_at = t.created_at - interval '25 hours', expires_at = expires_at - interval '25 hours'"
            " FROM staff s WHERE s.staff_id = t.staff_id AND s.name = %s AND expires_at < now() + interval '25 hours'", (name,)
        )  # fmt: skip
        owner.execute(
            "UPDATE staff SET created_at = created_at - interval '25 hours' WHERE name = %s", (name,)
        )
    assert host.findings() == []
    until(lambda: looks() == [401, 200], what="the token of before to end")


@scenario("A delivering system does not answer")
def test_a_work_order_is_answered_for_a_system_that_can_not(host, shell):
    services = host.services
    subscriber = services.subscriptions.register(f"+86{next(PHONES)}", "Li", broadband="sh87654321")
    order = services.orders.place(subscriber, "uplink-acceleration")
    (work,) = services.orders.work_orders()
    with shell.page("A delivering system does not answer") as page:
        assert str(work.work_order_id) in page.run("order work list")
        page.run("order work answer", WORK_ORDER=work.work_order_id)
    assert services.orders.find(order.order_id)[0].state == "completed"
    assert services.charges.receivable(subscriber.account_id) > 0
