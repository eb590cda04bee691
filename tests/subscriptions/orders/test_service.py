"""Orders beyond the first: changes, cycles' ends, rollover, suspension, delivery by others, contracts, closing."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.support.server import until
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.catalog import OfferingNotActive
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import (
    BILLING_ZONE,
    ChangeNotAllowed,
    KeyReused,
    NotEligible,
    PhoneTaken,
    ProductEnded,
    SubscriberNotActive,
    WorkOrderAnswered,
    WorkOrderNotFound,
)

MID_APRIL = datetime(2027, 4, 16, tzinfo=BILLING_ZONE)
M = 1_000_000
YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def charges(works, subscriber):
    return [(c.kind, c.amount_nano) for c in works.charges.of_subscriber(subscriber.subscriber_id)]


def left(works, subscriber):
    return sum(b.left for b in works.ledger.buckets(subscriber.account_id) if b.kind == "balance") // 1000


def test_an_upgrade_costs_the_rest_of_the_cycle_and_credits_the_lesser_of_time_and_quantity(
    works, subscriber, spender, clock
):
    product = works.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 7 * M)  # 3 M of 10 M are left
    clock.move(MID_APRIL - clock.now())  # half of April is left
    order = works.orders.change(product, "ctc-standard")
    assert (order.state, order.action, order.product_id) == ("completed", "modify", product)
    # 29.9 for half a month; of 9.9 three tenths, not the half.
    assert charges(works, subscriber) == [
        ("cycle", 9_900_000_000),
        ("change", 14_950_000_000),
        ("credit", -2_970_000_000),
    ]
    assert order.amount_nano == 14_950_000_000 - 2_970_000_000
    assert left(works, subscriber) == 20 * M
    (kept,) = works.orders.products(subscriber)
    assert (kept.product_id, kept.offering_id, kept.cycle_no, kept.state) == (
        product,
        "ctc-standard",
        1,
        "active",
    )
    works.charges.recognise()
    assert balances(works)
    # The next month is the new plan in full.
    clock.move(timedelta(days=15))
    works.orders.run_cycles()
    assert charges(works, subscriber)[3:] == [("cycle", 29_900_000_000)]
    assert balances(works)


def test_of_an_unused_plan_the_time_that_is_left_is_credited(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    clock.move(MID_APRIL - clock.now())
    works.orders.change(product, "ctc-standard")
    assert charges(works, subscriber)[2] == ("credit", -4_950_000_000)
    assert balances(works)


def test_a_change_waits_for_what_is_granted_and_is_not_begun_twice(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 4 * M * 1000)
    clock.move(MID_APRIL - clock.now())
    order = works.orders.change(product, "ctc-standard", "now", "k1")
    assert order.state == "inProgress"
    assert works.orders.change(product, "ctc-standard", "now", "k1").order_id == order.order_id
    with pytest.raises(ChangeNotAllowed, match="in progress"):
        works.orders.change(product, "ctc-premium")
    assert works.orders.finish_changes() == 0
    assert left(works, subscriber) == 24 * M  # what is granted of the old plan, and the new one
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 4 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert works.orders.finish_changes() == 1
    assert works.orders.finish_changes() == 0
    assert works.orders.find(order.order_id)[0].state == "completed"
    # 6 M of 10 M were not used, half of the time was left: half.
    assert charges(works, subscriber)[2:] == [("credit", -4_950_000_000)]
    works.charges.recognise()
    assert balances(works)


def test_a_downgrade_comes_with_the_next_cycle_and_can_be_replaced(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-premium").product_id
    first = works.orders.change(product, "ctc-light", "cycle_end")
    second = works.orders.change(product, "ctc-standard", "cycle_end")
    assert [works.orders.find(o.order_id)[0].state for o in (first, second)] == ["cancelled", "pending"]
    assert charges(works, subscriber) == [("cycle", 49_900_000_000)]
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    assert works.orders.find(second.order_id)[0].state == "completed"
    assert charges(works, subscriber) == [("cycle", 49_900_000_000), ("cycle", 29_900_000_000)]
    assert left(works, subscriber) == 40 * M
    assert balances(works)


def test_a_plan_that_is_cancelled_for_its_end_ends_there(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    order = works.orders.cancel(product, "cycle_end")
    assert order.state == "pending"
    assert left(works, subscriber) == 10 * M
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    assert works.orders.products(subscriber)[0].state == "expired"
    assert works.orders.find(order.order_id)[0].state == "completed"
    assert charges(works, subscriber) == [("cycle", 9_900_000_000)]
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.recognised_nano, charge.broken_nano) == (0, charge.net_nano)
    assert balances(works)


def test_a_reply_that_was_lost_is_given_again_whatever_the_product_is_by_now(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    changed = works.orders.change(product, "ctc-standard", "now", "change")
    ended = works.orders.cancel(product, "now", "end")
    for key, again in (("change", lambda: works.orders.change(product, "ctc-standard", "now", "change")),
                       ("end", lambda: works.orders.cancel(product, "now", "end"))):  # fmt: skip
        order = again()
        assert order.order_id == {"change": changed, "end": ended}[key].order_id
        assert not order.new
    with pytest.raises(ProductEnded):
        works.orders.cancel(product, "now", "another")
    # At once, so each in full.
    assert [kind for kind, _ in charges(works, subscriber)] == ["cycle", "change", "credit", "credit"]
    assert works.charges.receivable(subscriber.account_id) == 0
    assert balances(works)


def test_a_delivery_locks_its_subscriber_before_anything_else(
    works, subscriber, database_url, session_dir, clock
):
    """As orders do: who cancels while a delivery is answered waits for it, or it for them, and neither for both."""
    works.orders.place(subscriber, "uplink-acceleration")
    (work,) = works.orders.work_orders()
    setup = load_settings({"data_dir": str(session_dir / "seed")}).settings

    def answer():
        with contextlib.closing(connect(database_url)) as connection:
            return make_works(setup, connection, clock).orders.answer(work.work_order_id, done=True)

    with ThreadPoolExecutor(1) as pool:
        with works.connection.transaction():
            works.connection.execute("SELECT 1 FROM subscriber FOR UPDATE")
            answered = pool.submit(answer)
            with contextlib.closing(connect(database_url)) as watch:
                until(
                    lambda: watch.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(),
                    what="the answer to wait",
                )
            works.connection.execute("SELECT 1 FROM work_order FOR UPDATE NOWAIT")
            works.connection.execute("SELECT 1 FROM product FOR UPDATE NOWAIT")
        assert answered.result(30) == "done"
    assert works.orders.products(subscriber)[0].state == "active"


def test_changes_that_make_no_sense_are_refused_and_change_nothing(works, subscriber):
    plan = works.orders.place(subscriber, "ctc-light").product_id
    payg = works.orders.place(subscriber, "shanghai-mobile-payg").product_id
    bundle = works.orders.place(subscriber, "sample-home-bundle").product_id
    part = next(p.product_id for p in works.orders.products(subscriber) if p.parent_id == bundle)
    before = charges(works, subscriber)
    for product, offering, reason in [
        (plan, "shanghai-mobile-payg", "to a plan"),
        (payg, "ctc-light", "to a plan"),
        (part, "ctc-light", "of its own"),
        (plan, "ctc-light", "already"),
        (plan, "sample-rollover", "different cycles"),
    ]:
        with pytest.raises(ChangeNotAllowed, match=reason):
            works.orders.change(product, offering)
    with pytest.raises(OfferingNotActive):
        works.orders.change(plan, "sample-study")
    with pytest.raises(ChangeNotAllowed, match="part of a bundle"):
        works.orders.cancel(part)
    with pytest.raises(ChangeNotAllowed, match="no cycle"):
        works.orders.cancel(payg, "cycle_end")
    works.orders.cancel(plan, "cycle_end", "k")
    with pytest.raises(KeyReused):
        works.orders.change(plan, "ctc-standard", "cycle_end", "k")
    assert charges(works, subscriber) == before
    assert balances(works)


def test_what_is_left_rolls_over_once_and_up_to_the_cap(works, subscriber, spender, clock):
    works.orders.place(subscriber, "sample-rollover")  # 30 M a month, 15 M of it roll over
    account = subscriber.account_id
    assert spender.spend(account, 5 * M)
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    assert left(works, subscriber) == 45 * M
    # What rolled over is spent first; the rest of it ends with this month, and does not roll again.
    assert spender.spend(account, 12 * M)
    clock.move(timedelta(days=31))
    works.orders.run_cycles()
    assert left(works, subscriber) == 30 * M + 15 * M
    works.charges.recognise()
    first, second, third = works.charges.of_subscriber(subscriber.subscriber_id)
    # Of the first month 17 M were used, 5 M of them before and 12 M after; the rest is breakage.
    assert first.recognised_nano == first.net_nano * 17 // 30
    assert first.recognised_nano + first.broken_nano == first.net_nano and first.closed_at
    assert (second.recognised_nano, third.recognised_nano) == (0, 0)
    assert balances(works)


def test_granted_quantity_rolls_over_when_its_grant_closes(works, subscriber, spender, clock):
    works.orders.place(subscriber, "sample-rollover")
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 20 * M * 1000)
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    # 10 M of it roll over at once; of what is granted 5 M more have room.
    assert sum(b.remaining for b in spender.usable(subscriber.account_id)) == 40 * M * 1000
    spender.close(subscriber.account_id, granted.grant_id)
    assert sum(b.remaining for b in spender.usable(subscriber.account_id)) == 45 * M * 1000
    assert sum(b.expired for b in works.ledger.buckets(subscriber.account_id)) == 15 * M * 1000
    assert balances(works)


def test_the_last_token_closes_the_plan_exactly(works, subscriber, spender):
    works.orders.place(subscriber, "ctc-premium")
    seen = 0
    for tokens in (1, 7_777_777, 33_333_333, 38_888_888):
        assert spender.spend(subscriber.account_id, tokens)
        works.charges.recognise([subscriber.account_id])
        seen += tokens
        (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
        assert charge.recognised_nano == charge.net_nano * seen // (80 * M)
        assert balances(works)
    assert seen == 79_999_999
    assert spender.spend(subscriber.account_id, 1)
    assert works.charges.recognise() == 1
    assert works.charges.recognise() == 0
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.recognised_nano, charge.broken_nano, charge.owed_nano) == (charge.net_nano, 0, 0)
    assert charge.tax_nano == 2_824_528_302  # 49.9 * 6 / 106, to the nearest nano
    assert balances(works)


def test_nothing_is_spent_of_a_suspended_product_and_it_does_not_renew(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    works.orders.suspend(product)
    with pytest.raises(ChangeNotAllowed):
        works.orders.suspend(product)
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    assert spender.open(subscriber.account_id, bucket, 1000) is None
    assert works.ledger.load_terms(subscriber.account_id.hex) == []
    works.orders.resume(product)
    assert spender.spend(subscriber.account_id, M)
    works.orders.suspend(product)
    clock.move(timedelta(days=70))
    works.orders.run_cycles()
    assert charges(works, subscriber) == [("cycle", 9_900_000_000)]
    works.orders.resume(product)
    # On 10 June: 21 of its 30 days.
    assert charges(works, subscriber) == [("cycle", 9_900_000_000), ("cycle", 6_930_000_000)]
    (resumed,) = works.orders.products(subscriber)
    assert (resumed.cycle_no, resumed.cycle_end) == (2, datetime(2027, 7, 1, tzinfo=BILLING_ZONE))
    assert spender.spend(subscriber.account_id, 7 * M)
    assert not spender.spend(subscriber.account_id, 1)
    works.orders.run_cycles()
    assert balances(works)


def test_what_rolls_over_of_a_suspended_product_is_not_spent_either(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "sample-rollover").product_id
    works.orders.suspend(product)
    clock.move(timedelta(days=31))
    works.orders.run_cycles()
    rolled = [b for b in works.ledger.buckets(subscriber.account_id) if b.remaining]
    assert len(rolled) == 1 and works.ledger.load_terms(subscriber.account_id.hex) == []
    works.orders.resume(product)
    assert len(works.ledger.load_terms(subscriber.account_id.hex)) == 2
    assert balances(works)


def test_a_bundle_is_charged_by_its_parts_and_when_they_are_delivered(works, subscriber):
    order = works.orders.place(subscriber, "sample-home-bundle", delivery="cloud_computer")
    assert order.state == "inProgress"
    assert left(works, subscriber) == 40 * M  # the plan can be used at once
    uplink, security = works.orders.work_orders()
    assert [(w.port, w.delivery, w.action) for w in (uplink, security)] == [
        ("broadband", "cloud_computer", "deliver"),
        ("security", "cloud_computer", "deliver"),
    ]
    works.orders.answer(uplink.work_order_id, done=True)
    assert works.orders.find(order.order_id)[0].state == "inProgress"
    works.orders.answer(security.work_order_id, done=True)
    done = works.orders.find(order.order_id)[0]
    assert (done.state, done.amount_nano) == ("completed", 39_900_000_000)
    assert sum(amount for _, amount in charges(works, subscriber)) == 39_900_000_000
    with pytest.raises(WorkOrderAnswered):
        works.orders.answer(uplink.work_order_id, done=False)
    with pytest.raises(WorkOrderNotFound):
        works.orders.answer(uuid4(), done=True)
    # It ends as a whole, and what was delivered is taken away.
    works.orders.cancel(order.product_id)
    assert {p.state for p in works.orders.products(subscriber)} == {"cancelled"}
    assert [w.action for w in works.orders.work_orders()] == ["withdraw", "withdraw"]
    works.charges.recognise()
    assert balances(works)


def test_a_delivery_that_fails_takes_the_order_back(works, subscriber):
    order = works.orders.place(subscriber, "sample-home-bundle")
    uplink, security = works.orders.work_orders()
    works.orders.answer(uplink.work_order_id, done=True)
    for attempt in (1, 2):
        assert (
            works.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home")
            == "open"
        )
        assert works.orders.work_orders()[0].attempts == attempt + 1
    assert (
        works.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home") == "refused"
    )
    failed = works.orders.find(order.order_id)[0]
    assert (failed.state, failed.reason, failed.amount_nano) == ("failed", "nobody home", 0)
    assert sum(amount for _, amount in charges(works, subscriber)) == 0
    assert left(works, subscriber) == 0
    assert [(w.port, w.action) for w in works.orders.work_orders()] == [("broadband", "withdraw")]
    works.charges.recognise()
    assert balances(works)


def test_an_order_that_is_cancelled_before_delivery_costs_nothing(works, subscriber):
    order = works.orders.place(subscriber, "uplink-acceleration")
    assert charges(works, subscriber) == []
    works.orders.cancel(order.product_id)
    assert works.orders.find(order.order_id)[0].state == "cancelled"
    assert works.orders.work_orders() == []
    assert charges(works, subscriber) == []
    with pytest.raises(Invalid, match="is delivered as"):
        works.orders.place(subscriber, "security-protection", delivery="network")


def test_an_add_on_is_earned_with_time(works, subscriber, clock):
    works.orders.place(subscriber, "uplink-acceleration")
    (work,) = works.orders.work_orders()
    works.orders.answer(work.work_order_id, done=True)
    clock.move(timedelta(days=10))
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert charge.recognised_nano == charge.net_nano * 10 // 30
    assert balances(works)
    clock.move(timedelta(days=20))
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.owed_nano, charge.broken_nano) == (0, 0)
    assert balances(works)


def test_whom_an_offering_is_for(works):
    person = works.subscriptions.register("+8613800000002", audiences=["person"])
    with pytest.raises(NotEligible, match="is for developer"):
        works.orders.place(person, "ctc-basic")
    works.orders.place(person, "ctc-light")
    assert [p.offering_id for p in works.orders.products(person)] == ["ctc-light"]
    with pytest.raises(Invalid, match="audiences are"):
        works.subscriptions.register("+8613800000003", audiences=["king"])
    assert works.orders.place(person, "shanghai-mobile-payg").amount_nano == 0
    with pytest.raises(NotEligible, match="there already"):
        works.orders.place(person, "shanghai-mobile-payg")


def test_a_contract_has_its_own_price_from_a_time_to_a_time(works, clock):
    firm = works.subscriptions.register("+8613800000004", "Firm", audiences=["enterprise"])
    works.subscriptions.set_contract_price(
        firm, "sample-enterprise", "3999.99", "2027-17", valid_until=clock.now() + timedelta(days=40)
    )
    works.orders.place(firm, "sample-enterprise")
    for _ in range(2):
        clock.move(timedelta(days=31))
        works.orders.run_cycles()
    assert [amount for _, amount in charges(works, firm)] == [
        3_999_990_000_000,
        3_999_990_000_000,
        4_999_000_000_000,
    ]
    assert balances(works)


def test_another_number_is_the_same_subscriber_and_the_old_one_is_free(works, subscriber):
    other = works.subscriptions.register("+8613800000009")
    works.subscriptions.invite(other, subscriber.phone, "Guest")
    with pytest.raises(PhoneTaken):
        works.subscriptions.change_phone(subscriber, other.phone)
    moved = works.subscriptions.change_phone(subscriber, "+8613800000005", "port_in")
    assert (moved.subscriber_id, moved.account_id) == (subscriber.subscriber_id, subscriber.account_id)
    assert works.subscriptions.find("+8613800000005").subscriber_id == subscriber.subscriber_id
    assert works.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    # Where one was invited goes with the person, not with the number.
    assert works.subscriptions.memberships("+8613800000001") == []
    assert [m.name for m in works.subscriptions.memberships("+8613800000005")] == ["Guest"]


def test_closing_ends_everything_and_frees_the_number(works, subscriber, spender):
    works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, M)
    works.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        works.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        works.orders.place(subscriber, "ctc-light")
    assert left(works, subscriber) == 0
    # 1 M of 10 M were used, at once.
    assert works.charges.receivable(subscriber.account_id) == 990_000_000
    assert works.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    works.charges.recognise()
    assert balances(works)


def test_a_subscriber_is_found_by_broadband_number(works):
    made = works.subscriptions.register("+8613800000006", broadband="ad12345678@sh")
    assert works.subscriptions.find("ad12345678@sh") == made
    with pytest.raises(Invalid):
        works.subscriptions.set_profile(made, broadband="x")
    with pytest.raises(Invalid, match="can't be set"):
        works.subscriptions.set_profile(made, account_id=uuid4())
    assert works.subscriptions.set_profile(made, bill_day=15, language="en").bill_day == 15
    works.subscriptions.consent(made, "marketing", given=True)
    assert works.subscriptions.consents(made) == {"marketing": True}
    with pytest.raises(Invalid, match="a consent is for"):
        works.subscriptions.consent(made, "anything", given=True)
