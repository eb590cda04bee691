"""What deliveries, sessions and webhooks keep of a person: encrypted where it stays, gone after an erasure."""

from datetime import timedelta

import pytest

from tests.support.receiver import Receiver
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.subscriptions.people import privacy

PHONE, BROADBAND = "+8613876543210", "bb-778899xy"


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register(PHONE, "Wilhelmina Xylander", broadband=BROADBAND)


def rows(connection, table):
    return str(connection.execute(f"SELECT * FROM {table}").fetchall())


def test_a_work_order_keeps_its_number_encrypted_and_an_erasure_ends_it(services, subscriber, clock):
    services.orders.place(subscriber, "uplink-acceleration")
    (asked,) = services.orders.work_orders()
    assert asked.broadband == BROADBAND
    assert BROADBAND not in rows(services.connection, "work_order")
    assert services.deliveries.lease(["broadband"], 10)[0].broadband == BROADBAND
    exported = b"".join(services.privacy.export(subscriber)).decode()
    assert exported.count(BROADBAND) == 2  # the subscriber's, and the work order's

    services.orders.answer(asked.work_order_id, done=True)
    other = services.subscriptions.set_profile(subscriber, broadband="bb-other-1")
    services.orders.cancel(asked.product_id)
    (withdrawn,) = services.orders.work_orders()
    assert (withdrawn.action, withdrawn.broadband) == ("withdraw", BROADBAND)
    # What is to be taken away needs its number: the erasure waits for it, also where what is owed is given up.
    done = services.privacy.erase(other, even_if_owed=True)
    assert (done.state, done.waits_for, done.backups_forget_at) == ("waiting", ("work_orders",), None)
    assert services.privacy.run_erasures() == 0
    (still,) = services.deliveries.lease(["broadband"], 10)
    assert (still.work_order_id, still.broadband) == (withdrawn.work_order_id, BROADBAND)
    services.orders.answer(withdrawn.work_order_id, done=True)
    assert services.privacy.run_erasures() == 1
    assert {work.broadband for work in services.orders.work_orders(None)} == {None}
    assert services.subscriptions.find(str(other.subscriber_id)).phone_masked == "(erased)"


def test_an_erasure_that_waits_says_for_what_and_is_in_nobodys_way(services, subscriber, clock, monkeypatch):
    monkeypatch.setattr(privacy, "ERASURES_BATCH", 1)
    services.orders.place(subscriber, "uplink-acceleration")
    (asked,) = services.orders.work_orders()
    services.orders.answer(asked.work_order_id, done=True)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    done = services.privacy.erase(subscriber)
    assert (done.state, done.waits_for) == ("waiting", ("owed", "work_orders")) and done.owes_nano > 0
    # Another one that asked later, and that of which nothing is open, does not wait behind it.
    later = services.subscriptions.register("+8613800000002", "Later", broadband="bb-later-1")
    services.orders.place(later, "uplink-acceleration")
    (_, second) = services.orders.work_orders()
    services.orders.answer(second.work_order_id, done=True)
    services.orders.cancel(second.product_id)
    services.bills.run()
    assert services.privacy.erase(later, even_if_owed=True).waits_for == ("work_orders",)
    services.orders.answer(services.orders.work_orders()[-1].work_order_id, done=True)
    assert services.privacy.run_erasures() == 1
    assert services.subscriptions.find(str(later.subscriber_id)).phone_masked == "(erased)"
    (still,) = services.orders.work_orders()
    assert (still.subscriber_id, still.broadband) == (subscriber.subscriber_id, BROADBAND)


def test_a_members_address_is_readable_until_an_erasure_and_staffs_always(services, subscriber):
    audit = services.identity.audit
    ref = str(subscriber.subscriber_id)
    audit("member:1", "owner", "sign_in", ref, address="203.0.113.9", person_id=subscriber.subscriber_id)
    audit("li", "operator", "look", ref, address="198.51.100.1", person_id=subscriber.subscriber_id)
    owner = services.subscriptions.owner_of(subscriber)
    services.identity.open_session(subscriber.subscriber_id, owner, "203.0.113.9", "A Phone")
    assert [row["address"] for row in services.identity.audited(ref)[0]] == ["198.51.100.1", "203.0.113.9"]
    assert "203.0.113.9" not in rows(services.connection, "audit")
    services.privacy.erase(subscriber, even_if_owed=True)
    trail, _ = services.identity.audited(ref)
    assert [row["address"] for row in trail] == ["198.51.100.1", None]
    assert "203.0.113.9" not in rows(services.connection, "session")
    assert "A Phone" not in rows(services.connection, "session")


def test_what_was_sent_of_a_person_goes_with_an_erasure(services, owner, subscriber, session_dir, clock):
    with Receiver() as receiver:
        options = {"data_dir": str(session_dir / "seed"), "webhook_allow_private": "true"}
        settings = load_settings(options).settings
        owner.execute("DELETE FROM hub_listener")
        services.hub._allow_private = True
        services.hub.subscribe("serviceOrdering", receiver.url, "", "Ann")
        services.orders.place(subscriber, "uplink-acceleration")
        assert deliver(services, settings) == 1
        assert BROADBAND not in rows(services.connection, "hub_delivery")
        assert BROADBAND in services.hub.log()[0][0].body
        assert (
            BROADBAND in b"".join(services.privacy.export(subscriber)).decode().partition("hub_delivery")[2]
        )
        services.privacy.erase(subscriber, even_if_owed=True)
        assert services.hub.log() == ([], 0)
        # What the end of the order tells is still told, and gone when the log is cleared up.
        assert deliver(services, settings) >= 1
        clock.move(timedelta(hours=1))
        services.hub.forget_old()
        assert services.hub.log()[1] == 0


def test_what_waits_at_an_erasure_is_sent_first(services, subscriber, session_dir, clock):
    """The same bytes; until then under the installation's own key, since the person's is destroyed."""
    with Receiver() as receiver:
        options = {"data_dir": str(session_dir / "seed"), "webhook_allow_private": "true"}
        settings = load_settings(options).settings
        services.hub._allow_private = True
        services.hub.subscribe("serviceOrdering", receiver.url, "eventType=ServiceOrderCreateEvent", "Ann")
        receiver.answers.append((503, {}, b""))
        services.orders.place(subscriber, "uplink-acceleration")
        assert deliver(services, settings) == 0
        (first,), _ = services.hub.log()
        assert services.privacy.erase(subscriber, even_if_owed=True).state == "erased"
        (waits,), _ = services.hub.log()
        assert waits == first and BROADBAND in waits.body
        # One that was made at the moment of the erasure, under a key that is gone, is given up and in nobody's way.
        services.connection.execute(
            """INSERT INTO hub_delivery (delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, created_at,
                   begun_at, next_at)
               SELECT uuidv7(), listener_id, uuidv7(), event_type, subscriber_id, body_sealed, created_at, begun_at, created_at
               FROM hub_delivery"""
        )
        clock.move(timedelta(minutes=5))
        assert deliver(services, settings) == 1
        assert [body for _, _, body in receiver.got[-1:]] == [first.body.encode()]
        (given_up,), _ = services.hub.log("given_up")
        assert "erased" in given_up.error and given_up.body is None
        services.hub.forget_old()
        assert services.hub.log()[1] == 0
