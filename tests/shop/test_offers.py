"""Offers bind: what can be had once is had once, by one person; what is for others, or for trying, is not sold; a second one asks."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.auditor import verify
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings
from tokenworks.catalog import Catalogue, OfferingNotActive, seed_catalogue
from tokenworks.charging import Need
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import (
    BILLING_ZONE,
    ChangeNotAllowed,
    IdentityKnown,
    KeyReused,
    NotEligible,
    SecondNotConfirmed,
)

YUAN = 1_000_000_000
# GB 11643's own examples.
WANG, LI = "11010519491231002X", "440524188001010014"


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Wang", broadband="sh87654321")


@pytest.fixture
def shipped(services, session_dir, clock):
    """The same database, served as it ships: not in dev."""
    settings = load_settings({"data_dir": str(session_dir / "seed"), "environment": "live"}).settings
    return make_works(settings, services.connection, clock)


def charged(services, subscriber):
    return [c.amount_nano for c in services.charges.of_subscriber(subscriber.subscriber_id)]


def load(services, id_, like="ctc-light", **update):
    """One more offering."""
    seed = seed_catalogue()
    made = next(o for o in seed.offerings if o.id == like).model_copy(update={"id": id_, **update})
    cards = tuple(card for card in seed.rate_cards if card.id == made.rate_card)
    services.offerings.load(Catalogue.model_construct(catalogue="test", rate_cards=cards, offerings=(made,)))
    return id_


# Once is once.


def test_a_trial_is_had_once(services, subscriber, clock):
    services.orders.place(subscriber, "sample-trial")
    with pytest.raises(NotEligible, match=r"1 time\(s\) in all"):
        services.orders.place(subscriber, "sample-trial", confirm=True)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "sample-trial")
    assert charged(services, subscriber) == [] and balances(services)  # what costs nothing makes no charge


def test_one_person_has_it_once_over_all_its_subscribers_and_a_numbers_next_holder_has_it_too(
    services, subscriber
):
    services.subscriptions.identify(subscriber, "resident_id", WANG)
    services.orders.place(subscriber, "sample-trial")
    services.subscriptions.close(subscriber)
    again = services.subscriptions.register("+8613800000002", "Wang")
    services.subscriptions.identify(again, "resident_id", "１１０１０５ 19491231002x")
    with pytest.raises(NotEligible):
        services.orders.place(again, "sample-trial")
    assert services.orders.has_had(again, "sample-trial")
    holder = services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")
    services.subscriptions.identify(holder, "resident_id", LI)
    assert services.orders.place(holder, "sample-trial").state == "completed"


def test_of_an_identity_only_a_keyed_hash_is_kept(services, subscriber):
    with pytest.raises(Invalid, match="typo") as caught:
        services.subscriptions.identify(subscriber, "resident_id", "110105194912310021")
    assert "110105" not in str(caught.value)
    with pytest.raises(Invalid):
        services.subscriptions.identify(subscriber, "passport", "E1\x002345")
    services.subscriptions.identify(subscriber, "resident_id", WANG)
    services.subscriptions.identify(subscriber, "resident_id", WANG)
    with pytest.raises(IdentityKnown):
        services.subscriptions.identify(subscriber, "resident_id", LI)
    (row,) = services.connection.execute("SELECT s::text, identity_hash FROM subscriber s").fetchall()
    assert WANG not in row[0] and len(row[1]) == 16


def test_what_was_had_by_a_change_was_had(services, subscriber):
    load(services, "welcome", price="1", per_subscriber_max=1)
    order = services.orders.place(subscriber, "ctc-light")
    services.orders.change(order.product_id, "welcome")
    services.orders.change(order.product_id, "ctc-standard")
    with pytest.raises(NotEligible):
        services.orders.change(order.product_id, "welcome")
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "welcome")
    assert balances(services)


def test_what_will_be_had_counts_and_what_is_taken_back_does_not(services, subscriber):
    load(services, "welcome", price="1", per_subscriber_max=1)
    order = services.orders.place(subscriber, "ctc-light")
    change = services.orders.change(order.product_id, "welcome", "cycle_end")
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "welcome")
    services.orders.withdraw(change.order_id)
    assert services.orders.place(subscriber, "welcome").amount_nano == YUAN


def test_another_version_of_what_one_has_is_not_one_more(services, subscriber):
    load(services, "welcome", price="1", per_subscriber_max=1)
    order = services.orders.place(subscriber, "welcome")
    load(services, "welcome", price="2", per_subscriber_max=1)
    assert services.orders.change(order.product_id, "welcome", "cycle_end").state == "pending"


def test_what_was_never_delivered_was_not_had(services, subscriber):
    load(services, "gift", like="security-protection", price="0", per_subscriber_max=1)
    services.orders.place(subscriber, "gift")
    (work,) = services.orders.work_orders()
    services.orders.answer(work.work_order_id, done=False)
    second = services.orders.place(subscriber, "gift")
    services.orders.withdraw(second.order_id)
    services.orders.place(subscriber, "gift")
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "gift", confirm=True)


def test_a_refund_does_not_bring_the_trial_back(services, subscriber):
    load(services, "welcome", price="1", per_subscriber_max=1)
    order = services.orders.place(subscriber, "welcome")
    services.refunds.refund(order.order_id, "whole", "not liked")
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "welcome")
    assert balances(services)


def test_a_first_months_price_is_given_once(services, subscriber, clock):
    order = services.orders.place(subscriber, "mobile-coding-lite")
    services.orders.cancel(order.product_id, "cycle_end")
    clock.move(timedelta(days=30, seconds=10))
    services.orders.run_cycles()
    services.orders.place(subscriber, "mobile-coding-lite")
    assert sum(charged(services, subscriber)) == pytest.approx(47_900_000_000, abs=160_000)
    # Another offering's first month is another one.
    services.orders.place(subscriber, "mobile-coding-pro")
    assert charged(services, subscriber)[-1] == pytest.approx(39_900_000_000, abs=160_000)
    assert balances(services)


def test_a_first_months_price_is_given_to_a_person_once(services, subscriber):
    services.subscriptions.identify(subscriber, "passport", "E12345678")
    services.orders.place(subscriber, "mobile-coding-lite")
    services.subscriptions.close(subscriber)
    again = services.subscriptions.register("+8613800000002", "Wang")
    services.subscriptions.identify(again, "passport", "e 1234-5678")
    services.orders.place(again, "mobile-coding-lite")
    assert charged(services, again) == [40 * YUAN]
    assert balances(services)


def test_the_auditor_finds_another_first_price(services, subscriber):
    services.orders.place(subscriber, "mobile-coding-lite")
    services.connection.execute("UPDATE charge SET number = 2")
    assert any(
        "product's price" in f.invariant for f in verify(services.connection, services.offerings.rate_cards())
    )


# The same twice.


def test_the_same_plan_twice_asks_first(services, subscriber):
    first = services.orders.place(subscriber, "ctc-light", "k1")
    with pytest.raises(SecondNotConfirmed):
        services.orders.place(subscriber, "ctc-light", "k2")
    assert services.orders.place(subscriber, "ctc-light", "k1").order_id == first.order_id
    assert len(charged(services, subscriber)) == 1
    services.orders.place(subscriber, "ctc-light", "k2", confirm=True)
    assert len(charged(services, subscriber)) == 2 and balances(services)


def test_a_change_to_what_is_there_asks_and_so_does_what_comes_with_the_next_cycle(services, subscriber):
    light = services.orders.place(subscriber, "ctc-light")
    other = services.orders.place(subscriber, "ctc-standard")
    with pytest.raises(SecondNotConfirmed):
        services.orders.change(light.product_id, "ctc-standard")
    services.orders.change(other.product_id, "ctc-premium", "cycle_end")
    with pytest.raises(SecondNotConfirmed):
        services.orders.place(subscriber, "ctc-premium")
    services.orders.change(light.product_id, "ctc-standard", confirm=True)
    assert balances(services)


def test_a_suspended_plan_is_there_and_so_is_a_bundles_part(services, subscriber):
    order = services.orders.place(subscriber, "ctc-standard")
    services.orders.suspend(order.product_id)
    for offering in ("ctc-standard", "sample-home-bundle"):
        with pytest.raises(SecondNotConfirmed, match="ctc-standard"):
            services.orders.place(subscriber, offering)
    services.orders.cancel(order.product_id)
    services.orders.place(subscriber, "sample-home-bundle")
    # What another system delivers is delivered once: to confirm a second one would not make it two.
    with pytest.raises(NotEligible, match="delivered once"):
        services.orders.place(subscriber, "security-protection")


def test_a_key_of_another_order_is_refused_before_it_asks(services, subscriber):
    services.orders.place(subscriber, "ctc-light", "k")
    with pytest.raises(KeyReused):
        services.orders.place(subscriber, "ctc-standard", "k")


# What ships is safe to serve.


def test_samples_are_on_sale_in_dev_alone(services, shipped, subscriber):
    samples = [o.id for o in seed_catalogue().offerings if o.id.startswith("sample-")]
    assert len(samples) >= 6
    for id_ in samples:
        with pytest.raises(OfferingNotActive):
            shipped.orders.place(subscriber, id_)
    every = [a for o in seed_catalogue().offerings for a in o.audiences]
    assert not {s.offering.id for s in shipped.offerings.for_sale(every)} & set(samples)
    plan = shipped.orders.place(subscriber, "ctc-light")
    with pytest.raises((OfferingNotActive, ChangeNotAllowed)):
        shipped.orders.change(plan.product_id, "sample-weighted")
    # What was sold in dev goes on.
    services.orders.place(subscriber, "sample-rollover")
    shipped.clock.move(timedelta(days=31))
    shipped.orders.run_cycles()
    assert {p.cycle_no for p in shipped.orders.products(subscriber)} == {2}
    assert balances(shipped)


def test_other_sellers_tariffs_are_for_comparison(services, subscriber):
    others = [o.id for o in seed_catalogue().offerings if o.carrier in {"Tencent Cloud", "Huawei Cloud"}]
    assert len(others) == 8
    plan = services.orders.place(subscriber, "ctc-light")
    for id_ in others:
        with pytest.raises(OfferingNotActive, match="comparison"):
            services.orders.place(subscriber, id_)
        with pytest.raises(OfferingNotActive, match="comparison"):
            services.orders.change(plan.product_id, id_)
    shown = services.offerings.all()
    assert {s.offering.id for s in shown[-8:]} == set(others)


def test_tiers_stand_by_seller_and_price(services):
    of_telecom = [
        s.offering.id for s in services.offerings.all() if s.offering.carrier == "China Telecom" and s.offering.kind == "plan"
    ]  # fmt: skip
    assert of_telecom == [
        "ctc-light", "ctc-standard", "ctc-basic", "ctc-premium", "ctc-professional", "ctc-flagship", "ecosystem-partner",
    ]  # fmt: skip
    sellers = [s.offering.carrier for s in services.offerings.all() if s.offering.status != "comparison"]
    assert sellers == sorted(sellers)


def test_who_has_not_said_whom_it_is_for_is_a_person(services, shipped, subscriber):
    for id_ in ("ctc-basic", "device-camera", "ecosystem-partner", "unicom-team-lite"):
        with pytest.raises(NotEligible):
            shipped.orders.place(subscriber, id_)
    plan = shipped.orders.place(subscriber, "ctc-light")
    with pytest.raises(NotEligible):
        shipped.orders.change(plan.product_id, "ctc-basic")
    maker = shipped.subscriptions.register("+8613800000009", "Cameras", audiences=["device_maker"])
    shipped.orders.place(maker, "device-camera")
    with pytest.raises(NotEligible):
        shipped.orders.place(maker, "ctc-light")
    assert {s.offering.id for s in shipped.offerings.for_sale(maker.audiences)} == {"device-camera"}
    assert services.orders.place(subscriber, "ctc-basic").state == "completed"  # dev: all is tried


def test_conditions_bind_a_change_too(services, subscriber):
    load(services, "extra", price="1", requires=("ctc-light",))
    plan = services.orders.place(subscriber, "ctc-light")
    with pytest.raises(NotEligible, match="order that first"):
        services.orders.change(plan.product_id, "extra")
    services.orders.place(subscriber, "extra")


# Consent, and alerts.


@pytest.mark.parametrize("suspended", [False, True])
def test_no_spill_over_beside_a_plan_without_consent(services, subscriber, suspended):
    plan = services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    if suspended:
        services.orders.suspend(plan.product_id)
    need = Need(1, 0, 20_000_000 if not suspended else 1000)
    assert not services.payg.buy(subscriber.account_id, "m", need)
    assert charged(services, subscriber) == [9_900_000_000]
    # However it is said, it is one consent.
    services.consents.keep(subscriber, "spill_over", given=True)
    assert services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1000))
    services.consents.keep(subscriber, "spill_over", given=False)
    assert not services.payg.buy(subscriber.account_id, "m", Need(1, 0, 2_000_000))
    assert balances(services)


def test_an_alert_comes_again_when_the_cap_was_raised(services, subscriber):
    services.orders.place(subscriber, "shanghai-mobile-payg")

    def alerts():
        rows = services.connection.execute(
            """SELECT (content->>'percent')::int, (content->>'cap_nano')::bigint / 1000000000 FROM notification
               WHERE kind = 'spend' ORDER BY notification_id"""
        )
        return rows.fetchall()

    services.payg.control(subscriber, cap_nano=2 * YUAN)
    services.payg.top_up(subscriber, 2 * YUAN, "a")
    assert alerts() == [(50, 2), (80, 2), (100, 2)]
    now = services.payg.control(subscriber, cap_nano=4 * YUAN)
    services.payg.top_up(now, 2 * YUAN, "b")
    assert alerts()[3:] == [(50, 4), (80, 4), (100, 4)]
    now = services.payg.control(subscriber, cap_nano=4 * YUAN)  # the same again raises nothing
    assert not services.payg.buy(subscriber.account_id, "m", Need(1, 0, 2_000_000))
    assert len(alerts()) == 6
