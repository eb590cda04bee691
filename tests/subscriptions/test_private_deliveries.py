"""What deliveries, sessions and webhooks keep of a person: encrypted where it stays, gone after an erasure."""

from datetime import timedelta

import pytest

from tests.support.receiver import Receiver
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.subscriptions.people import privacy

PHONE, BROADBAND = "+8613876543210", "bb-778899xy"


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register(PHONE, "Wilhelmina Xylander", broadband=BROADBAND)


def rows(connection, table):
    return str(connection.execute(f"SELECT * FROM {table}").fetchall())


def test_a_work_order_keeps_its_number_encrypted_and_an_erasure_ends_it(works, subscriber, clock):
    works.orders.place(subscriber, "uplink-acceleration")
    (asked,) = works.orders.work_orders()
    assert asked.broadband == BROADBAND
    assert BROADBAND not in rows(works.connection, "work_order")
    assert works.deliveries.lease(["broadband"], 10)[0].broadband == BROADBAND
    exported = b"".join(works.privacy.export(subscriber)).decode()
    assert exported.count(BROADBAND) == 2  # the subscriber's, and the work order's

    works.orders.answer(asked.work_order_id, done=True)
    other = works.subscriptions.set_profile(subscriber, broadband="bb-other-1")
    works.orders.cancel(asked.product_id)
    (withdrawn,) = works.orders.work_orders()
    assert (withdrawn.action, withdrawn.broadband) == ("withdraw", BROADBAND)
    # What is to be taken away needs its number: the erasure waits for it, also where what is owed is given up.
    done = works.privacy.erase(other, even_if_owed=True)
    assert (done.state, done.waits_for, done.backups_forget_at) == ("waiting", ("work_orders",), None)
    assert works.privacy.run_erasures() == 0
    (still,) = works.deliveries.lease(["broadband"], 10)
    assert (still.work_order_id, still.broadband) == (withdrawn.work_order_id, BROADBAND)
    works.orders.answer(withdrawn.work_order_id, done=True)
    assert works.privacy.run_erasures() == 1
    assert {work.broadband for work in works.orders.work_orders(None)} == {None}
    assert works.subscriptions.find(str(other.subscriber_id)).phone_masked == "(erased)"


def test_an_erasure_that_waits_says_for_what_and_is_in_nobodys_way(works, subscriber, clock, monkeypatch):
    monkeypatch.setattr(privacy, "ERASURES_BATCH", 1)
    works.orders.place(subscriber, "uplink-acceleration")
    (asked,) = works.orders.work_orders()
    works.orders.answer(asked.work_order_id, done=True)
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    done = works.privacy.erase(subscriber)
    assert (done.state, done.waits_for) == ("waiting", ("owed", "work_orders")) and done.owes_nano > 0
    # Another one that asked later, and that of which nothing is open, does not wait behind it.
    later = works.subscriptions.register("+8613800000002", "Later", broadband="bb-later-1")
    works.orders.place(later, "uplink-acceleration")
    (_, second) = works.orders.work_orders()
    works.orders.answer(second.work_order_id, done=True)
    works.orders.cancel(second.product_id)
    works.bills.run()
    assert works.privacy.erase(later, even_if_owed=True).waits_for == ("work_orders",)
    works.orders.answer(works.orders.work_orders()[-1].work_order_id, done=True)
    assert works.privacy.run_erasures() == 1
    assert works.subscriptions.find(str(later.subscriber_id)).phone_masked == "(erased)"
    (still,) = works.orders.work_orders()
    assert (still.subscriber_id, still.broadband) == (subscriber.subscriber_id, BROADBAND)


def test_a_members_address_is_readable_until_an_erasure_and_staffs_always(works, subscriber):
    audit = works.identity.audit
    ref = str(subscriber.subscriber_id)
    audit("member:1", "owner", "sign_in", ref, address="203.0.113.9", person_id=subscriber.subscriber_id)
    audit("li", "operator", "look", ref, address="198.51.100.1", person_id=subscriber.subscriber_id)
    owner = works.subscriptions.owner_of(subscriber)
    works.identity.open_session(subscriber.subscriber_id, owner, "203.0.113.9", "A Phone")
    assert [row["address"] for row in works.identity.audited(ref)[0]] == ["198.51.100.1", "203.0.113.9"]
    assert "203.0.113.9" not in rows(works.connection, "audit")
    works.privacy.erase(subscriber, even_if_owed=True)
    trail, _ = works.identity.audited(ref)
    assert [row["address"] for row in trail] == ["198.51.100.1", None]
    assert "203.0.113.9" not in rows(works.connection, "session")
    assert "A Phone" not in rows(works.connection, "session")


def test_what_was_sent_of_a_person_goes_with_an_erasure(works, owner, subscriber, session_dir, clock):
    with Receiver() as receiver:
        options = {"data_dir": str(session_dir / "seed"), "webhook_allow_private": "true"}
        settings = load_settings(options).settings
        owner.execute("DELETE FROM hub_listener")
        works.hub._allow_private = True
        works.hub.subscribe("serviceOrdering", receiver.url, "", "Ann")
        works.orders.place(subscriber, "uplink-acceleration")
        assert deliver(works, settings) == 1
        assert BROADBAND not in rows(works.connection, "hub_delivery")
        assert BROADBAND in works.hub.log()[0][0].body
        assert BROADBAND in b"".join(works.privacy.export(subscriber)).decode().partition("hub_delivery")[2]
        works.privacy.erase(subscriber, even_if_owed=True)
        assert works.hub.log() == ([], 0)
        # What the end of the order tells is still told, and gone when the log is cleared up.
        assert deliver(works, settings) >= 1
        clock.move(timedelta(hours=1))
        works.hub.forget_old()
        assert works.hub.log()[1] == 0


def test_what_waits_at_an_erasure_is_sent_first(works, subscriber, session_dir, clock):
    """The same bytes; until then under the installation's own key, since the person's is destroyed."""
    with Receiver() as receiver:
        options = {"data_dir": str(session_dir / "seed"), "webhook_allow_private": "true"}
        settings = load_settings(options).settings
        works.hub._allow_private = True
        works.hub.subscribe("serviceOrdering", receiver.url, "eventType=ServiceOrderCreateEvent", "Ann")
        receiver.answers.append((503, {}, b""))
        works.orders.place(subscriber, "uplink-acceleration")
        assert deliver(works, settings) == 0
        (first,), _ = works.hub.log()
        assert works.privacy.erase(subscriber, even_if_owed=True).state == "erased"
        (waits,), _ = works.hub.log()
        assert waits == first and BROADBAND in waits.body
        # One that was made at the moment of the erasure, under a key that is gone, is given up and in nobody's way.
        works.connection.execute(
            """INSERT INTO hub_delivery (delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, created_at,
                   begun_at, next_at)
               SELECT uuidv7(), listener_id, uuidv7(), event_type, subscriber_id, body_sealed, created_at, begun_at, created_at
               FROM hub_delivery"""
        )
        clock.move(timedelta(minutes=5))
        assert deliver(works, settings) == 1
        assert [body for _, _, body in receiver.got[-1:]] == [first.body.encode()]
        (given_up,), _ = works.hub.log("given_up")
        assert "erased" in given_up.error and given_up.body is None
        works.hub.forget_old()
        assert works.hub.log()[1] == 0
