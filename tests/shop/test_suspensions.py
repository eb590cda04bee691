"""A suspension has a cause: what it stops, what lifts it, and what is never charged meanwhile."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.auditor import verify
from tests.support.spend import Spender, balances
from tokenworks.charging import Need
from tokenworks.kernel import Conflict, Invalid, ManualClock, uuid7
from tokenworks.subscriptions import (
    BILLING_ZONE,
    SUSPENSIONS,
    NotSuspended,
    SubscriberNotActive,
    TopUpNotAllowed,
)

YUAN = 1_000_000_000


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=BILLING_ZONE).astimezone(UTC)


@pytest.fixture
def clock():
    return ManualClock(at("2027-04-01"))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


@pytest.fixture
def world(services, subscriber, clock):
    return World(services, subscriber, clock)


class World:
    """One subscriber and what happens to it at named instants."""

    def __init__(self, services, subscriber, clock):
        self.services, self.clock, self.subscriber_id = services, clock, subscriber.subscriber_id

    @property
    def now_is(self):
        return self.services.subscriptions.find(str(self.subscriber_id))

    def go_to(self, text):
        self.clock.move(at(text) - self.clock.now())

    def month(self):
        self.services.orders.run_cycles()
        self.services.charges.recognise()
        self.services.bills.run()

    def months(self, *days):
        for day in days:
            self.go_to(f"{day} 01:00")
            self.month()

    def charged(self):
        return [c.amount_nano for c in self.services.charges.of_subscriber(self.subscriber_id)]

    def bill(self):
        return self.services.bills.all(self.now_is)[0][0]

    def answer(self, accepted):
        sequence, text = self.services.charge_files.make_file()
        lines = text.count("\nD|") + text.startswith("D|")
        said = "accepted|" if accepted else "rejected|no such number"
        rows = [f"A|tokenworks-phone-1|{sequence}", *(f"R|{no}|{said}" for no in range(1, lines + 1))]
        return "\n".join(rows) + "\n"


def test_months_of_an_operators_suspension_are_not_charged(world, services, subscriber):
    services.orders.place(subscriber, "ctc-premium")
    services.subscriptions.set_state(subscriber, "suspended")
    world.months("2027-05-01", "2027-06-01", "2027-07-01")
    assert world.charged() == [49_900_000_000]
    assert balances(services)


@pytest.mark.parametrize("cause", ["operator", "fraud", "own_wish"])
def test_what_waited_begins_with_the_lift_and_goes_on_from_there(world, services, subscriber, cause, spender):
    services.orders.place(subscriber, "ctc-light")
    world.go_to("2027-04-20")
    services.subscriptions.suspend(subscriber, cause, "a reason")
    world.months("2027-05-01", "2027-06-01")
    assert len(world.charged()) == 1
    world.go_to("2027-06-10")
    services.subscriptions.lift(subscriber, cause, "it is over")
    first, second = services.charges.of_subscriber(subscriber.subscriber_id)
    assert (second.number, second.period_start, second.period_end) == (2, at("2027-06-10"), at("2027-07-01"))
    assert spender.spend(subscriber.account_id, 1000)
    world.months("2027-07-01")
    assert [c.period_start for c in services.charges.of_subscriber(subscriber.subscriber_id)][2:] == [
        at("2027-07-01")
    ]
    (past,) = services.subscriptions.suspensions(subscriber)
    assert (past.cause, past.reason, past.end_reason) == (cause, "a reason", "it is over")
    assert (past.began_at, past.ended_at) == (at("2027-04-20"), at("2027-06-10"))
    assert first.amount_nano == 9_900_000_000 and balances(services)


def test_a_lost_phone_stops_serving_and_nothing_else(world, services, subscriber, spender):
    services.orders.place(subscriber, "ctc-light")
    services.subscriptions.suspend(subscriber, "lost_phone")
    world.months("2027-05-01", "2027-06-01")
    assert world.charged() == [9_900_000_000] * 3
    assert services.ledger.account_state(subscriber.account_id) == "frozen"
    assert spender.open(subscriber.account_id, spender.usable(subscriber.account_id)[0], 1000) is None
    services.subscriptions.lift(subscriber, "lost_phone")
    assert spender.spend(subscriber.account_id, 1000) and balances(services)


def test_several_causes_at_once_and_each_is_lifted_by_itself(world, services, subscriber):
    services.subscriptions.set_state(subscriber, "suspended")
    services.subscriptions.suspend(subscriber, "fraud")
    services.subscriptions.suspend(subscriber, "fraud", "said again")
    assert world.now_is.suspended_by == ("operator", "fraud")
    services.subscriptions.set_state(subscriber, "active")
    assert (world.now_is.state, world.now_is.suspended_by) == ("suspended", ("fraud",))
    with pytest.raises(NotSuspended, match="fraud"):
        services.subscriptions.lift(subscriber, "own_wish")
    services.subscriptions.lift(subscriber, "fraud")
    assert (world.now_is.state, world.now_is.suspended_by) == ("active", ())
    assert [s.cause for s in services.subscriptions.suspensions(subscriber)] == ["fraud", "operator"]
    assert balances(services)


def test_only_dunning_suspends_by_payment_and_only_paying_lifts_it(world, services, subscriber):
    for act in (services.subscriptions.suspend, services.subscriptions.lift):
        with pytest.raises(Invalid, match="dunning"):
            act(subscriber, "payment")
        with pytest.raises(Invalid):
            act(subscriber, "no such cause")
    services.orders.place(subscriber, "ctc-light")
    world.months("2027-05-01")
    world.go_to("2027-06-06")
    services.dunning.run_dunning()
    assert world.now_is.suspended_by == ("payment",)
    services.subscriptions.set_state(subscriber, "active")
    assert world.now_is.state == "suspended"
    with pytest.raises(SubscriberNotActive, match="what is owed"):
        services.orders.place(subscriber, "ctc-standard")
    services.payments.pay(world.bill(), "cash", "T")
    assert (world.now_is.state, world.now_is.restricted) == ("active", False)
    assert balances(services)


@pytest.mark.parametrize("cause", ["operator", "fraud", "lost_phone", "own_wish"])
def test_a_payment_lifts_nothing_but_its_own(world, services, subscriber, cause):
    services.orders.place(subscriber, "ctc-light")
    world.months("2027-05-01")
    world.go_to("2027-06-06")
    services.dunning.run_dunning()
    services.subscriptions.suspend(subscriber, cause)
    services.payments.pay(world.bill(), "cash", "T")
    assert (world.now_is.state, world.now_is.suspended_by) == ("suspended", (cause,))
    with pytest.raises(SubscriberNotActive, match=cause.replace("_", " ")):
        services.orders.place(subscriber, "ctc-standard")
    assert balances(services)


def test_what_dunning_suspended_is_not_charged_for_the_time_of_it(world, services, subscriber):
    services.orders.place(subscriber, "ctc-light")
    world.months("2027-05-01")
    world.go_to("2027-06-06")  # before the job of June: it ran on time, and June is charged
    services.orders.run_cycles()
    services.dunning.run_dunning()
    before = len(world.charged())
    world.months("2027-07-01", "2027-08-01")
    assert len(world.charged()) == before == 3
    for no, bill in enumerate(services.bills.all(world.now_is)[0]):
        if bill.remaining_nano:
            services.payments.pay(bill, "cash", f"T{no}")
    assert world.now_is.state == "active"
    assert services.charges.of_subscriber(subscriber.subscriber_id)[-1].period_start == at("2027-08-01 01:00")
    assert balances(services)


def test_no_dunning_while_the_carriers_answer_is_outstanding(world, services, subscriber):
    services.orders.place(subscriber, "ctc-light")
    world.months("2027-05-01")
    text = world.answer(accepted=False)
    world.go_to("2027-06-06")
    assert services.dunning.run_dunning() == {}
    assert (world.now_is.state, world.now_is.restricted) == ("active", False)
    services.charge_files.acknowledge(text)
    assert services.dunning.run_dunning() == {"remind": 1, "restrict": 1, "suspend": 1}
    assert world.now_is.suspended_by == ("payment",)
    # The next file asks once more; what was taken of it stays until the carrier, or somebody, pays.
    services.charge_files.acknowledge(world.answer(accepted=True))
    assert world.now_is.state == "active" and balances(services)


def test_what_ends_ends_while_suspended(world, services, subscriber):
    plan = services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "sample-trial")
    services.orders.cancel(plan.product_id, "cycle_end")
    services.subscriptions.suspend(subscriber, "own_wish")
    world.months("2027-05-02")
    assert {p.state for p in services.orders.products(subscriber)} == {"expired"}
    services.subscriptions.lift(subscriber, "own_wish")
    # The trial costs nothing and makes no charge.
    assert len(world.charged()) == 1 and balances(services)


def test_what_is_delivered_while_suspended_begins_with_the_lift(world, services, subscriber):
    order = services.orders.place(subscriber, "security-protection")
    other = services.orders.place(subscriber, "uplink-acceleration")
    services.subscriptions.suspend(subscriber, "operator")
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)
    assert world.charged() == []
    services.orders.cancel(other.product_id)
    world.go_to("2027-04-11")
    services.subscriptions.lift(subscriber, "operator")
    assert world.charged() == [3_333_333_333]  # 20 of April's 30 days
    assert services.orders.find(order.order_id)[0].state == "completed"
    assert services.orders.find(other.order_id)[0].state == "cancelled"
    assert [w.action for w in services.orders.work_orders()] == ["withdraw"]
    assert balances(services)


def test_a_suspended_product_resumed_while_the_subscriber_is_suspended_waits(world, services, subscriber):
    product = services.orders.place(subscriber, "ctc-light").product_id
    services.orders.suspend(product)
    services.subscriptions.suspend(subscriber, "operator")
    world.go_to("2027-05-10")
    services.orders.resume(product)
    assert len(world.charged()) == 1
    services.subscriptions.lift(subscriber, "operator")
    assert len(world.charged()) == 2 and balances(services)


def test_nothing_is_bought_while_suspended(world, services, subscriber):
    services.orders.place(subscriber, "shanghai-mobile-payg")
    services.subscriptions.suspend(subscriber, "own_wish")
    assert not services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))
    with pytest.raises(TopUpNotAllowed, match="own wish"):
        services.payg.top_up(subscriber, YUAN, "k")
    assert world.charged() == []


def test_closing_ends_every_suspension(world, services, subscriber):
    services.subscriptions.suspend(subscriber, "fraud")
    services.subscriptions.close(subscriber)
    assert (world.now_is.state, world.now_is.suspended_by) == ("closed", ())
    assert services.subscriptions.suspensions(subscriber)[0].end_reason == "closed"
    with pytest.raises(SubscriberNotActive):
        services.subscriptions.suspend(subscriber, "fraud")
    assert balances(services)


def test_the_auditor_finds_a_state_that_its_history_does_not_explain(services, subscriber):
    services.subscriptions.suspend(subscriber, "fraud")
    services.connection.execute("UPDATE subscriber SET suspended_by = '{operator}'")
    (found,) = verify(services.connection, services.offerings.rate_cards())
    assert "what suspends it" in found.invariant


def test_the_auditor_finds_a_charge_for_suspended_time(world, services, subscriber):
    world.clock.move(timedelta(days=2))  # a suspension is of time since there is a subscriber
    services.orders.place(subscriber, "ctc-light")
    services.connection.execute(
        """INSERT INTO suspension (suspension_id, subscriber_id, cause, began_at, ended_at)
           SELECT gen_random_uuid(), subscriber_id, 'fraud', charged_at - interval '1 day', charged_at + interval '1 day'
           FROM charge"""
    )
    (found,) = verify(services.connection, services.offerings.rate_cards())
    assert "stops charging" in found.invariant


# Whatever comes in whatever order.

ASKED = st.sampled_from([cause for cause in SUSPENSIONS if cause != "payment"])


class SuspensionMachine(RuleBasedStateMachine):
    """Causes set and lifted in any order, with cycles, deliveries, bill runs, dunning and payments between, against an oracle that
    keeps the causes and the spans of time in which one of them stopped charging.
    """

    services = None
    clock = None

    def __init__(self):
        super().__init__()
        made = self.services.subscriptions.register(f"+8613{uuid7().int % 10**9:09d}")
        self.subscriber, self.account = made, made.account_id
        for offering in ("ctc-light", "sample-rollover", "security-protection"):
            self.services.orders.place(made, offering)
        self.causes = set()
        self.stopped = []  # [begin, end] of spans in which nothing was to be charged
        self.references = 0

    def teardown(self):
        self.services.subscriptions.close(self.subscriber)

    @property
    def now_is(self):
        return self.services.subscriptions.find(str(self.subscriber.subscriber_id))

    def stops(self, what):
        return any(getattr(SUSPENSIONS[cause], what) for cause in self.causes)

    def note(self, causes):
        before = self.stops("charging")
        self.causes = causes
        if self.stops("charging") and not before:
            self.stopped.append([self.clock.now(), None])
        elif before and not self.stops("charging"):
            self.stopped[-1][1] = self.clock.now()

    @rule(cause=ASKED)
    def suspend(self, cause):
        self.services.subscriptions.suspend(self.subscriber, cause)
        self.note(self.causes | {cause})

    @rule(cause=ASKED)
    def lift(self, cause):
        if cause in self.causes:
            self.services.subscriptions.lift(self.subscriber, cause)
        else:
            with pytest.raises(NotSuspended):
                self.services.subscriptions.lift(self.subscriber, cause)
        self.note(self.causes - {cause})

    @rule(hours=st.integers(1, 24 * 25))
    def later(self, hours):
        """Time passes, and the jobs run; they come late by up to the hours of a step."""
        self.clock.move(timedelta(hours=hours))
        self.services.orders.run_cycles()

    @rule()
    def deliver(self):
        for work in self.services.orders.work_orders():
            if work.subscriber_id == self.subscriber.subscriber_id:
                self.services.orders.answer(work.work_order_id, done=True)

    @rule()
    def bill_and_dun(self):
        self.services.bills.run()
        self.services.dunning.run_dunning()
        long_due = self.clock.now() - timedelta(days=20)
        if any(b.remaining_nano and b.due_at < long_due for b in self.services.bills.all(self.subscriber)[0]):
            self.note(self.causes | {"payment"})

    @rule()
    def pay(self):
        for bill in self.services.bills.all(self.subscriber)[0]:
            if bill.remaining_nano:
                self.references += 1
                reference = f"{self.subscriber.subscriber_id}-{self.references}"
                self.services.payments.pay(bill, "cash", reference)
        self.note(self.causes - {"payment"})

    @precondition(lambda self: self.causes)
    @rule()
    def nothing_is_sold(self):
        with pytest.raises(Conflict):
            self.services.orders.place(self.subscriber, "ctc-standard")

    @invariant()
    def served_where_nothing_stops_it(self):
        served = not self.stops("serving")
        assert set(self.now_is.suspended_by) == self.causes
        assert (self.now_is.state == "active") == served
        assert self.services.ledger.account_state(self.account) == ("open" if served else "frozen")
        spender = Spender(self.services)
        usable = spender.usable(self.account)
        if usable:
            granted = spender.open(self.account, usable[0], 1000)
            assert (granted is not None) == served
            if granted is not None:
                spender.close(self.account, granted.grant_id)

    @invariant()
    def charged_where_nothing_stops_it_once_and_never_for_stopped_time(self):
        now = self.clock.now()
        charges = self.services.charges.of_subscriber(self.subscriber.subscriber_id)
        for charge in charges:
            assert charge.kind == "cycle" and charge.amount_nano > 0
            for begin, end in self.stopped:
                assert charge.period_start <= begin or (end is not None and charge.period_start >= end)
        for product in self.services.orders.products(self.subscriber):
            own = [c for c in charges if c.product_id == product.product_id]
            assert [c.number for c in own] == list(range(1, len(own) + 1))
            for before, after in itertools.pairwise(own):
                assert before.period_end <= after.period_start
            if product.state == "active" and not self.stops("charging"):
                assert own[-1].period_start <= now < own[-1].period_end
            if product.state == "pendingActive":
                assert own == []

    @invariant()
    def the_auditor_finds_nothing(self):
        assert verify(self.services.connection, self.services.offerings.rate_cards()) == []


@pytest.mark.parametrize("examples", [2, pytest.param(40, marks=pytest.mark.nightly)])
def test_served_and_charged_exactly_where_no_cause_stops_it(services, clock, examples):
    machine = type("Machine", (SuspensionMachine,), {"services": services, "clock": clock})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=18,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
