"""One proration policy, declared per offering, in every operation; and zeros that are no rows."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.shop.tariffs import POLICIES, add_on, bundle, catalogue, plan
from tests.support.spend import balances
from tokenworks.billing import RefundNotAllowed
from tokenworks.catalog import CatalogueFaulty, seed_catalogue
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE, ProductEnded

YUAN = 1_000_000_000
M = 1_000_000
APRIL_S = 30 * 86_400


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def charges(services, subscriber):
    return [(c.kind, c.amount_nano) for c in services.charges.of_subscriber(subscriber.subscriber_id)]


def net(services, subscriber):
    return sum(amount for _, amount in charges(services, subscriber))


def delivered(services):
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)


def left(services, subscriber):
    return sum(b.left for b in services.ledger.buckets(subscriber.account_id) if b.kind == "balance") // 1000


def family(policy, **more):
    return [
        plan("one", "9.9", policy, tokens=10 * M, **more),
        plan("two", "29.9", policy, tokens=40 * M, **more),
    ]


def test_every_shipped_offering_declares_its_policy():
    declared = {o.proration for o in seed_catalogue().offerings}
    assert declared == {"prorate", "full"}
    assert all(
        o.proration == ("full" if o.kind == "pay_as_you_go" else "prorate")
        for o in seed_catalogue().offerings
    )


# The table of the decision, a month of 30 days half over.

ORDERED = {"prorate": 4_950_000_000, "full": 9_900_000_000, "free_until_next_cycle": 0}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_first_order_in_mid_month(services, subscriber, clock, policy):
    services.offerings.load(catalogue(*family(policy)))
    to(clock, 2027, 4, 16)
    order = services.orders.place(subscriber, "one")
    assert order.amount_nano == net(services, subscriber) == ORDERED[policy]
    # A zero is not a row; what it brings comes all the same.
    assert len(charges(services, subscriber)) == (ORDERED[policy] > 0)
    assert left(services, subscriber) == (10 * M if policy == "full" else 5 * M)
    assert balances(services)
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    services.charges.recognise()
    assert charges(services, subscriber)[-1] == ("cycle", 9_900_000_000)
    assert balances(services)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_resume_in_another_month(services, subscriber, clock, policy):
    services.offerings.load(catalogue(*family(policy)))
    product = services.orders.place(subscriber, "one").product_id
    services.orders.suspend(product)
    to(clock, 2027, 6, 16)
    services.orders.resume(product)
    assert net(services, subscriber) == 9_900_000_000 + ORDERED[policy]
    assert balances(services)


@pytest.mark.parametrize(
    ("policy", "right"),
    [
        ("prorate", [("change", 14_950_000_000), ("credit", -4_950_000_000)]),
        ("full", [("change", 29_900_000_000)]),
        ("free_until_next_cycle", []),
    ],
)
def test_a_change(services, subscriber, clock, policy, right):
    services.offerings.load(catalogue(*family(policy)))
    product = services.orders.place(subscriber, "one").product_id
    to(clock, 2027, 4, 16)
    order = services.orders.change(product, "two")
    assert charges(services, subscriber)[1:] == right
    assert order.state == ("pending" if policy == "free_until_next_cycle" else "completed")
    assert services.orders.product(product)[0].offering_id == (
        "one" if policy == "free_until_next_cycle" else "two"
    )
    assert balances(services)
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert charges(services, subscriber)[-1] == ("cycle", 29_900_000_000)
    assert balances(services)


@pytest.mark.parametrize(
    ("policy", "right"), [("prorate", -4_950_000_000), ("full", 0), ("free_until_next_cycle", 0)]
)
def test_a_cancellation_now(services, subscriber, clock, policy, right):
    services.offerings.load(catalogue(*family(policy)))
    product = services.orders.place(subscriber, "one").product_id
    to(clock, 2027, 4, 16)
    order = services.orders.cancel(product)
    assert (order.state, order.amount_nano) == ("completed", right)
    assert net(services, subscriber) == 9_900_000_000 + right
    services.charges.recognise()
    assert balances(services)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_refund_of_what_is_unused_is_the_same_under_every_policy(services, subscriber, clock, policy):
    services.offerings.load(catalogue(plan("calls", "40", policy, window=1200)))
    order = services.orders.place(subscriber, "calls")
    services.charges.recognise()
    to(clock, 2027, 4, 25, 12)
    (done,) = services.refunds.refund(order.order_id, "unused", "moved away")
    assert done.amount_nano == 40 * YUAN * 475_200 // APRIL_S
    services.charges.recognise()
    assert balances(services)


def test_nobody_uses_a_plan_up_and_gets_its_price_back_by_cancelling(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 9 * M)
    to(clock, 2027, 4, 2)
    # 29 of 30 days are left, but a tenth of the tokens.
    assert services.orders.cancel(product).amount_nano == -990_000_000
    assert balances(services)


def test_a_cancellation_waits_for_what_is_granted(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 9 * M * 1000)
    order = services.orders.cancel(product, "now", "k")
    assert (order.state, order.amount_nano) == ("inProgress", 0)
    assert services.orders.finish_changes() == 0
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 8 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert services.orders.finish_changes() == 1
    done = services.orders.cancel(product, "now", "k")
    assert (done.order_id, done.state, done.amount_nano) == (order.order_id, "completed", -1_980_000_000)
    assert balances(services)


def test_closing_is_a_cancellation_of_everything(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "uplink-acceleration")
    delivered(services)
    to(clock, 2027, 4, 16)
    services.subscriptions.close(subscriber)
    assert services.charges.receivable(subscriber.account_id) == (9_900_000_000 + 10 * YUAN) // 2
    services.charges.recognise()
    assert balances(services)


def test_what_comes_back_is_by_the_policy_of_what_ends_and_what_is_charged_by_that_of_what_begins(
    services, subscriber, clock
):
    services.offerings.load(
        catalogue(plan("share", "9.9", "prorate", tokens=10 * M), plan("whole", "29.9", "full"))
    )
    product = services.orders.place(subscriber, "share").product_id
    to(clock, 2027, 4, 16)
    services.orders.change(product, "whole")
    assert charges(services, subscriber)[1:] == [("change", 29_900_000_000), ("credit", -4_950_000_000)]
    services.orders.change(product, "share")
    # Nothing back for the whole one.
    assert charges(services, subscriber)[3:] == [("change", 4_950_000_000)]
    assert balances(services)


def test_a_second_change_and_a_cancellation_give_back_the_running_plan_alone(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 4, 11)
    services.orders.change(product, "ctc-standard")
    to(clock, 2027, 4, 21)
    services.orders.change(product, "ctc-premium")
    to(clock, 2027, 4, 26)
    services.orders.cancel(product)
    light, standard, premium = 9_900_000_000, 29_900_000_000, 49_900_000_000
    assert charges(services, subscriber) == [
        ("cycle", light),
        ("change", standard * 20 // 30),
        ("credit", -(light * 20 // 30)),
        ("change", premium * 10 // 30),
        ("credit", -((standard * 20 // 30) // 2)),
        ("credit", -((premium * 10 // 30) // 2)),
    ]
    assert balances(services)


# Bundles.


def parts(services, subscriber):
    return {
        p.offering_id: p.price_nano for p in services.orders.products(subscriber) if p.parent_id is not None
    }


def test_a_bundle_has_its_first_months_price_and_its_own_policy(services, subscriber, clock):
    services.offerings.load(
        catalogue(
            plan("core", "20", "full"),
            add_on("extra", "10"),
            bundle("both", "24", ["core", "extra"], first="12"),
        )
    )
    to(clock, 2027, 4, 16)
    services.orders.place(subscriber, "both")
    delivered(services)
    # Half of the 12 that is advertised, by the bundle's policy, not by its part's; shared out 2 : 1.
    assert charges(services, subscriber) == [("cycle", 4 * YUAN), ("cycle", 2 * YUAN)]
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert charges(services, subscriber)[2:] == [("cycle", 16 * YUAN), ("cycle", 8 * YUAN)]
    assert balances(services)
    bundle_id = next(p.product_id for p in services.orders.products(subscriber) if p.parent_id is None)
    to(clock, 2027, 5, 16, 12)
    assert services.orders.cancel(bundle_id).amount_nano == -12 * YUAN
    assert balances(services)
    # The first month is the first one that was ever charged.
    to(clock, 2027, 6, 1)
    services.orders.place(subscriber, "both")
    delivered(services)
    assert sum(amount for _, amount in charges(services, subscriber)[-2:]) == 24 * YUAN
    assert balances(services)


def test_a_contracts_price_of_a_bundle_ends_with_the_contract(services, subscriber, clock):
    services.subscriptions.set_contract_price(
        subscriber, "sample-home-bundle", "30", "C-1", valid_until=clock.now() + timedelta(days=40)
    )
    services.orders.place(subscriber, "sample-home-bundle")
    delivered(services)
    assert net(services, subscriber) == 30 * YUAN
    for month, right in ((5, 30 * YUAN), (6, 39_900_000_000)):
        before = net(services, subscriber)
        to(clock, 2027, month, 1)
        services.orders.run_cycles()
        assert net(services, subscriber) - before == right
        assert sum(parts(services, subscriber).values()) == right
    assert balances(services)


def test_a_part_that_is_delivered_later_begins_there(services, subscriber, clock):
    services.orders.place(subscriber, "sample-home-bundle")
    to(clock, 2027, 4, 16)
    delivered(services)
    share = parts(services, subscriber)
    assert sum(share.values()) == 39_900_000_000
    assert net(services, subscriber) == share["ctc-standard"] + sum(
        share[part] // 2 for part in ("uplink-acceleration", "security-protection")
    )
    assert balances(services)


# The first month's price.


def test_a_change_has_the_first_months_price_once(services, subscriber, clock):
    product = services.orders.place(subscriber, "mobile-coding-lite").product_id
    to(clock, 2027, 4, 16)
    services.orders.change(product, "mobile-coding-pro")
    assert charges(services, subscriber) == [
        ("cycle", 7_900_000_000),
        ("change", 39_900_000_000 // 2),
        ("credit", -7_900_000_000 // 2),
    ]
    services.orders.change(product, "mobile-coding-lite")
    assert charges(services, subscriber)[3][1] == 20 * YUAN
    assert balances(services)


def test_a_first_month_that_was_free_leaves_the_first_price_for_the_next(services, subscriber, clock):
    services.offerings.load(catalogue(plan("one", "40", "free_until_next_cycle", first="7.9")))
    to(clock, 2027, 4, 30, 23, 59)
    services.orders.place(subscriber, "one")
    for month in (5, 6):
        to(clock, 2027, month, 1)
        services.orders.run_cycles()
    assert charges(services, subscriber) == [("cycle", 7_900_000_000), ("cycle", 40 * YUAN)]
    assert balances(services)


# What comes between a cycle's end and its job.


@pytest.mark.parametrize("operation", ["change", "cancel", "suspend", "refund"])
def test_what_comes_before_the_job_is_as_if_the_job_had_run(services, clock, operation):
    """The same operation with the job before it and without: the same charges."""
    made = []
    for at, job in enumerate((True, False)):
        who = services.subscriptions.register(f"+861380000000{at}")
        to(clock, 2027, 4, 1)
        order = services.orders.place(who, "ctc-light")
        to(clock, 2027, 6, 11)
        if job:
            services.orders.run_cycles()
        if operation == "change":
            services.orders.change(order.product_id, "ctc-premium")
        elif operation == "cancel":
            services.orders.cancel(order.product_id)
        elif operation == "suspend":
            services.orders.suspend(order.product_id)
        else:
            services.refunds.refund(order.order_id, "unused", "moved away")
        services.orders.run_cycles()
        made.append(charges(services, who))
        assert balances(services)
    assert made[0] == made[1]
    assert made[0][:3] == [("cycle", 9_900_000_000)] * 3


def test_what_ends_with_its_cycle_is_not_changed_after_it(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    services.orders.cancel(product, "cycle_end")
    to(clock, 2027, 5, 1)
    with pytest.raises(ProductEnded):
        services.orders.change(product, "ctc-premium")
    services.orders.run_cycles()
    assert charges(services, subscriber) == [("cycle", 9_900_000_000)]
    assert balances(services)


# Zeros.


def test_a_share_that_rounds_to_nothing_makes_no_bucket(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 4, 30, 21)
    services.orders.change(product, "device-camera")
    assert left(services, subscriber) == 0
    assert all(b.total for b in services.ledger.buckets(subscriber.account_id))
    assert charges(services, subscriber)[1:] == [
        ("change", 100_000_000 * 10_800 // APRIL_S),
        ("credit", -(9_900_000_000 * 10_800 // APRIL_S)),
    ]
    services.charges.recognise()
    assert balances(services)
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert left(services, subscriber) == 100
    assert balances(services)


def test_a_share_of_the_last_millisecond_is_no_row(services, subscriber, clock):
    services.offerings.load(catalogue(plan("tiny", "0.001", tokens=100), *family("prorate")))
    product = services.orders.place(subscriber, "one").product_id
    clock.move(timedelta(days=30) - timedelta(milliseconds=1))
    services.orders.change(product, "tiny")
    assert [kind for kind, _ in charges(services, subscriber)] == ["cycle", "credit"]
    assert services.orders.product(product)[0].charge_id is None
    # What was given back of the plan before is not given back again.
    before = net(services, subscriber)
    services.orders.cancel(product)
    assert net(services, subscriber) == before
    assert balances(services)


def test_a_trial_that_costs_nothing_has_no_charge(services, subscriber, spender):
    order = services.orders.place(subscriber, "sample-trial")
    assert charges(services, subscriber) == []
    assert spender.spend(subscriber.account_id, 4000)
    with pytest.raises(RefundNotAllowed):
        services.refunds.refund(order.order_id, "whole", "nothing was paid")
    services.orders.cancel(order.product_id)
    assert left(services, subscriber) == 0
    services.charges.recognise()
    assert balances(services)


def test_a_contract_for_nothing_has_no_charges_and_balances(services, subscriber, clock):
    services.subscriptions.set_contract_price(subscriber, "ctc-light", "0", "C-0")
    product = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert charges(services, subscriber) == []
    assert left(services, subscriber) == 10 * M
    services.orders.change(product, "ctc-standard")
    assert charges(services, subscriber) == [("change", 29_900_000_000)]
    assert left(services, subscriber) == 40 * M, "what was free of the old plan is withdrawn with it"
    assert balances(services)


def test_a_plan_that_is_free_goes_by_cycles():
    with pytest.raises(CatalogueFaulty, match="what is sold once has no next one"):
        catalogue(
            """  - {id: t, name: t, name_zh: t, carrier: t, kind: trial, audiences: [person], price: "1", cycle: once, validity_days: 3,
     proration: free_until_next_cycle, rate_card: flat, buckets: [{unit: token, quantity: 1}], source: t}
"""
        )


# Refunds, as the public cases say.


def test_what_is_unused_is_gross_and_up_to_the_moment(services, subscriber, clock):
    made = []
    for days in (0, 15):
        order = services.orders.place(subscriber, "security-protection")
        delivered(services)
        services.charges.recognise()
        clock.move(timedelta(days=days))
        (done,) = services.refunds.refund(order.order_id, "unused", "moved away")
        made.append(done.amount_nano)
    assert made == [5 * YUAN, 2_500_000_000]
    taxes = [
        c.tax_nano for c in services.charges.of_subscriber(subscriber.subscriber_id) if c.kind == "refund"
    ]
    assert taxes[0] == -283_018_868  # 5.00 * 6 / 106
    services.charges.recognise()
    assert balances(services)


def test_withdrawn_tokens_are_not_refunded_and_what_was_given_by_hand_neither(services, subscriber):
    order = services.orders.place(subscriber, "ctc-light")

    def adjust(tokens):
        (bucket,) = services.ledger.buckets(subscriber.account_id)
        asked = services.adjustments.ask(bucket.bucket_id, tokens * 1000, "a test's reason", "first")
        services.adjustments.decide(asked.adjustment_id, "second", do=True)

    adjust(5 * M)
    (dry,) = services.refunds.refund(order.order_id, "unused", "moved away", dry_run=True)
    assert dry.amount_nano == 9_900_000_000
    adjust(-14 * M)
    (done,) = services.refunds.refund(order.order_id, "unused", "moved away")
    assert done.amount_nano == 990_000_000
    assert balances(services)


def test_what_has_expired_is_not_refunded_whenever_the_job_runs(services, subscriber, clock):
    order = services.orders.place(subscriber, "ctc-light")
    services.orders.suspend(order.product_id)
    to(clock, 2027, 5, 2)
    (done,) = services.refunds.refund(order.order_id, "unused", "moved away")
    assert done.amount_nano == 0
    assert charges(services, subscriber) == [("cycle", 9_900_000_000)]
    assert balances(services)


def test_a_refund_of_a_bundle_is_of_each_part_by_how_it_is_earned(services, subscriber, spender, clock):
    order = services.orders.place(subscriber, "sample-home-bundle")
    delivered(services)
    share = parts(services, subscriber)
    assert spender.spend(subscriber.account_id, 10 * M)
    to(clock, 2027, 4, 16)
    done = services.refunds.refund(order.order_id, "unused", "moved away")
    assert sum(refund.amount_nano for refund in done) == share["ctc-standard"] * 3 // 4 + sum(
        share[part] // 2 for part in ("uplink-acceleration", "security-protection")
    )
    services.charges.recognise()
    assert balances(services)
