"""What deliveries, sessions and webhooks keep of a person: encrypted where it stays, gone after an erasure."""

from datetime import timedelta

import pytest

from tests.support.receiver import Receiver
from tokenworks.app.notify import deliver
from tokenworks.app.settings import load_settings

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
    works.privacy.erase(other, even_if_owed=True)
    assert {work.broadband for work in works.orders.work_orders(None)} == {None}
    assert works.deliveries.find(withdrawn.work_order_id).state == "open"


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


def test_what_was_sent_of_a_person_goes_with_an_erasure(works, subscriber, session_dir, clock):
    with Receiver() as receiver:
        options = {"data_dir": str(session_dir / "seed"), "webhook_allow_private": "true"}
        settings = load_settings(options).settings
        works.connection.execute("DELETE FROM hub_listener")
        works.hub._allow_private = True
        works.hub.subscribe("serviceOrdering", receiver.url, "", "Ann")
        works.orders.place(subscriber, "uplink-acceleration")
        assert deliver(works, settings) == 1
        assert BROADBAND in rows(works.connection, "hub_delivery")
        works.privacy.erase(subscriber, even_if_owed=True)
        assert BROADBAND not in rows(works.connection, "hub_delivery")
        # What the end of the order tells is still told, and gone when the log is cleared up.
        assert deliver(works, settings) >= 1
        clock.move(timedelta(hours=1))
        works.hub.forget_old()
        assert works.hub.log()[1] == 0
