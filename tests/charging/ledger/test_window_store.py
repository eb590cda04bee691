"""Windowed allowances on real PostgreSQL: so many in any 5 hours and any week, against an oracle that keeps a list."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.charging.ledger.test_accounts import findings, first_attempt, settle
from tokenworks.catalog import Counts, Weights
from tokenworks.charging.host.attempts import interrupted
from tokenworks.charging.messages import AttemptStart, BucketTerms, Need, OpenAttempt, Part, UsageRecord
from tokenworks.charging.model import FOLLOW_UP, cover, hold_rate
from tokenworks.charging.worker.slices import Slices
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import next_month

IDS = ("01a207a0000070008000000000000001", "01a207a0000070008000000000000002")
LENGTHS = {80: timedelta(hours=5), 400: timedelta(days=7)}


class Plan:
    """A subscriber with 80 prompts in any 5 hours, 400 a week, 1600 a month, and one host that spends them."""

    def __init__(self, services, clock, offering="tianyi-coding-lite"):
        self.services, self.clock = services, clock
        self.subscriber = services.subscriptions.register(f"+8613{uuid7().int % 10**9:09d}")
        self.order = services.orders.place(self.subscriber, offering)
        self.account = self.subscriber.account_id
        self.journal = uuid7()
        services.ledger.register_journal(self.journal, "test")
        self.seq = 0
        self.grants = {}

    def terms(self):
        return {
            terms.bucket_id: (terms, remaining)
            for terms, remaining in self.services.ledger.load_terms(self.account.hex)
        }

    def windows(self):
        return [b for b in self.services.ledger.buckets(self.account) if b.kind == "window" and not b.closing]

    def balance(self):
        return next(
            b for b in self.services.ledger.buckets(self.account) if b.kind == "balance" and not b.closing
        )

    def room(self):
        """How many more prompts the ledger would grant now."""
        found = self.terms()
        balance = next(terms for terms, _ in found.values() if terms.kind == "balance")
        return (
            min(
                found[bucket][1] if bucket in found else 0 for bucket in [balance.bucket_id, *balance.windows]
            )
            // 1000
        )

    def use(self, prompts, prompt=True):
        """As many records as there is room for, each drawn from the balance and beside it from every window."""
        balance = self.balance()
        buckets = [balance, *self.windows()]
        served = min(prompts, self.room())
        for bucket in buckets:
            held = self.grants.get(bucket.bucket_id)
            granted = self.services.ledger.grant(
                account_id=self.account.hex, bucket_id=bucket.bucket_id.hex, journal_id=self.journal, grant_id=held,
                amount=1000 * served, spend_for_s=900,
            )  # fmt: skip
            assert (granted is None and not served and held is None) or granted.added == 1000 * served
            if granted is not None:
                self.grants[bucket.bucket_id] = granted.grant_id
        records = []
        now_ms = int(self.clock.now().timestamp() * 1000)
        for _ in range(served):
            self.seq += 1
            parts = [
                Part(b.bucket_id.hex, self.grants[b.bucket_id], b.rate_version, "prompt", b.kind, 1000, 1, Counts(3, 0, 0, 0, 4))
                for b in buckets
            ]  # fmt: skip
            counts = Counts(fresh_input=3, output=4)
            records.append((self.seq, UsageRecord(
                self.account.hex, *first_attempt(), *IDS, "chat", "m", "d", "complete", "completed", "provider",
                now_ms, now_ms, 1, 2, counts, 7, parts, [], [], None, prompt,
            )))  # fmt: skip
        if records:
            settle(self.services.connection, self.journal, self.seq, records)
        return served

    def close_grants(self):
        for grant_id in self.grants.values():
            self.services.ledger.close_grant(self.account.hex, grant_id, self.journal, self.seq)
        self.grants.clear()


@pytest.fixture
def plan(services, clock):
    """Ordered on the first day of a month, so that a test has all of it."""
    clock.move(next_month(clock.now()) - clock.now())
    return Plan(services, clock)


def test_a_use_comes_back_after_exactly_the_length_of_its_window(plan):
    assert plan.use(200) == 80
    assert plan.use(1) == 0
    shortest = min(plan.windows(), key=lambda b: b.window_s)
    assert plan.services.ledger.window_back_s(plan.account.hex, [shortest.bucket_id.hex]) == 5 * 3600
    plan.clock.move(timedelta(hours=2))
    assert plan.services.ledger.window_back_s(plan.account.hex, [shortest.bucket_id.hex]) == 3 * 3600
    plan.clock.move(timedelta(hours=3) - timedelta(milliseconds=1))
    assert plan.use(1) == 0
    plan.clock.move(timedelta(milliseconds=1))
    assert plan.use(200) == 80
    assert {b.window_quantity: b.left for b in plan.windows()} == {80_000: 0, 400_000: 240_000}
    assert findings(plan.services) == []


def test_all_windows_hold_at_once(plan):
    served = []
    for _ in range(8):
        served.append(plan.use(80))
        plan.clock.move(timedelta(hours=5))
    assert served == [80, 80, 80, 80, 80, 0, 0, 0]  # the week
    plan.clock.move(timedelta(days=7))
    assert plan.use(80) == 80
    assert plan.balance().left == 1000 * (1600 - 480)
    assert findings(plan.services) == []


def test_a_window_goes_on_into_the_next_cycle(plan):
    plan.clock.move(
        plan.services.orders.products(plan.subscriber)[0].cycle_end - plan.clock.now() - timedelta(minutes=1)
    )
    before = plan.balance().bucket_id
    assert plan.use(80) == 80
    plan.close_grants()
    plan.clock.move(timedelta(minutes=2))
    plan.services.orders.run_cycles()
    assert plan.balance().bucket_id != before
    assert plan.balance().left == 1_600_000
    assert plan.use(1) == 0, "80 in any 5 hours, whatever the month"
    plan.clock.move(timedelta(hours=5))
    assert plan.use(80) == 80
    assert findings(plan.services) == []


def test_the_windows_of_a_cancelled_plan_close_with_it(plan):
    assert plan.use(10) == 10
    plan.close_grants()
    plan.services.orders.cancel(plan.order.product_id)
    assert plan.windows() == []
    plan.clock.move(timedelta(days=8))
    assert plan.terms() == {}
    assert findings(plan.services) == []


def test_one_who_writes_more_than_the_window_left_is_found(plan):
    assert plan.use(5) == 5
    assert findings(plan.services) == []
    plan.services.connection.execute(
        "DELETE FROM window_use WHERE ctid IN (SELECT ctid FROM window_use LIMIT 1)"
    )
    assert any("window" in finding.invariant for finding in findings(plan.services))


class WindowMachine(RuleBasedStateMachine):
    services = None
    clock = None

    @initialize()
    def sell(self):
        self.clock.move(next_month(self.clock.now()) - self.clock.now())
        self.plan = Plan(self.services, self.clock)
        self.uses = []

    def allowed(self):
        now = self.clock.now()
        windows = min(n - sum(1 for at in self.uses if at > now - length) for n, length in LENGTHS.items())
        return min(windows, 1600 - len(self.uses))

    @rule(prompts=st.integers(0, 120))
    def use(self, prompts):
        allowed = self.allowed()
        served = self.plan.use(prompts)
        assert served == min(prompts, allowed)
        self.uses += [self.clock.now()] * served

    @rule(hours=st.sampled_from([0.01, 1, 2.5, 5, 30, 100]))
    def wait(self, hours):
        # Not past the cycle: the month has a test of its own.
        end = self.services.orders.products(self.plan.subscriber)[0].cycle_end
        if self.clock.now() + timedelta(hours=hours) < end:
            self.clock.move(timedelta(hours=hours))

    @rule()
    def close(self):
        self.plan.close_grants()

    @invariant()
    def balanced(self):
        if hasattr(self, "plan"):
            assert self.plan.room() == max(0, self.allowed())
            assert findings(self.services) == []


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.nightly)])
def test_windows_agree_with_a_naive_oracle(services, clock, examples):
    def machine():
        made = WindowMachine()
        made.services, made.clock = services, clock
        return made

    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)),
    )  # fmt: skip


# The worker's side.

CALLS = Weights(1000, *[0] * 8)
TOKENS = Weights(0, *[1000] * 8)


def lookup(version, model):
    return ("standard", CALLS if version == "calls" else TOKENS) if model == "m" else None


def terms(bucket_id, kind="balance", unit="prompt", rate="calls", windows=(), priority=10):
    return BucketTerms(bucket_id, "acc", kind, unit, priority, None, ("*",), rate, windows)


def made_slices(balance, window):
    slices = Slices(lookup)
    slices.receive("acc", "g1", terms("plan", windows=("5h",)), balance, 100)
    slices.receive("acc", "g2", terms("5h", "window"), window, 100)
    return slices, slices.account("acc")


@pytest.mark.parametrize(("balance", "window", "served"), [(9000, 3000, 3), (2000, 3000, 2), (5000, 999, 0)])
def test_a_hold_is_drawn_from_the_plan_and_from_each_window_beside(balance, window, served):
    slices, account = made_slices(balance, window)
    holds = []
    while (hold := slices.hold(account, (), "m", Need(1, 10, 10), 0)) is not None:
        holds.append(hold)
    assert len(holds) == served
    for hold in holds:
        parts, loss = slices.commit(hold, Counts(fresh_input=10, output=5), lambda: 0)
        assert loss is None
        assert [(part.kind, part.amount, part.requests) for part in parts] == [
            ("balance", 1000, 1),
            ("window", 1000, 1),
        ]
    left = {s.terms.bucket_id: s.free for s in account.all()}
    assert left == {"plan": balance - 1000 * served, "5h": window - 1000 * served}


def test_what_goes_on_with_a_tools_result_costs_no_prompt():
    slices, account = made_slices(0, 0)
    assert slices.hold(account, (), "m", Need(1, 10, 10), 0) is None
    hold = slices.hold(account, (), FOLLOW_UP + "m", Need(1, 10, 10), 0)
    parts, loss = slices.commit(hold, Counts(fresh_input=10, output=5), lambda: 0)
    assert loss is None
    assert [part.amount for part in parts] == [0]


def test_a_bucket_of_calls_pays_whole_requests_and_no_remainder():
    """A nearly empty token plan before it does not make requests free."""
    slices = Slices(lookup)
    slices.receive("acc", "g0", terms("tokens", unit="token", rate="tokens", priority=1), 5000, 100)
    slices.receive("acc", "g1", terms("calls", unit="call", priority=2), 2000, 100)
    account = slices.account("acc")
    assert slices.hold(account, (), "m", Need(1, 10, 10), 0) is None, "5 tokens are no start of 20"
    slices.recall("acc", ["tokens"], closing=True)
    hold = slices.hold(account, (), "m", Need(1, 10, 10), 0)
    assert [(s.terms.bucket_id, amount) for s, amount, _ in hold.parts] == [("calls", 1000)]
    more = slices.hold(account, (), "m", Need(0, 0, 500), 0)
    assert more is None
    assert slices.hold(account, (), "m", Need(0, 0, 500), 0, paid_whole=hold.paid_whole) is not None


def test_an_empty_token_bucket_takes_no_request():
    rate = hold_rate(terms("t", unit="token", rate="tokens"), lookup, "m")
    need = Need(1, 10, 10)
    assert cover(rate, 0, need) == (0, need)
    assert cover(rate, 1000, need) == (1000, Need(0, 9, 10))


@pytest.mark.parametrize("prompt", [True, False])
def test_a_lost_workers_prompt_is_charged_beside_too(prompt):
    slices, account = made_slices(5000, 5000)
    hold = slices.hold(account, (), "m" if prompt else FOLLOW_UP + "m", Need(1, 10, 10), 0)
    start = AttemptStart("u" * 32, "acc", "req", 1, *IDS, "chat", "m", "d", 5, hold.held())
    attempt = OpenAttempt("w", start, Counts(output=3), None, 5)
    finish = interrupted(attempt, "worker_lost")
    assert [part.amount for part in finish.used] == ([1000, 1000] if prompt else [0])
