"""Whatever is ordered, changed, suspended, resumed, cancelled and refunded, at whatever instant and under whatever policy: every
charge and every credit is what a book in plain arithmetic says, which shares nothing with the product.
"""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shop.tariffs import POLICIES, catalogue, plan
from tests.support.auditor import verify
from tests.support.spend import Spender
from tokenworks.kernel import ManualClock, TokenworksError, uuid7
from tokenworks.subscriptions import BILLING_ZONE

SHORT = {"prorate": "p", "full": "f", "free_until_next_cycle": "n"}
OFFERINGS = {}  # id -> (policy, price, first price, tokens or None, cycle)
LINES = []
for _cycle in ("calendar_month", "anniversary_month"):
    for _policy in POLICIES:
        for _name, _price, _first, _tokens in (
            ("a", "9.9", None, 1_000_003),
            ("b", "29.9", "7.77", 3_999_999),
            ("c", "0.1", None, 100),
            ("w", "40", "7.9", None),
        ):
            _id = f"{_cycle[:3]}-{SHORT[_policy]}-{_name}"
            OFFERINGS[_id] = (_policy, _price, _first, _tokens, _cycle)
            LINES.append(
                plan(
                    _id, _price, _policy, first=_first, cycle=_cycle, tokens=_tokens,
                    window=None if _tokens else 1200,
                )
            )  # fmt: skip


def nano(text):
    return int(Fraction(text) * 10**9)


def floor(value):
    return value.numerator // value.denominator


def micros(begin, end):
    return (end - begin) // timedelta(microseconds=1)


def months_on(at, months):
    index = at.year * 12 + at.month - 1 + months
    year, month = divmod(index, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, monthrange(year, month + 1)[1]))


class Book:
    """One product of one subscriber, in local times without a zone. `rows`: (kind, amount) as they were made."""

    def __init__(self):
        self.rows, self.paid = [], []
        self.state = None
        self.next = None
        self.ends = False

    def whole(self, at):
        """The whole cycle that an instant is in."""
        if OFFERINGS[self.offering][4] == "calendar_month":
            begin = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return begin, months_on(begin, 1)
        n = 0
        while months_on(self.anchor, n + 1) <= at:
            n += 1
        return months_on(self.anchor, n), months_on(self.anchor, n + 1)

    def price(self):
        _, price, first, _, _ = OFFERINGS[self.offering]
        had = any(x["offering"] == self.offering and x["credited"] < x["amount"] for x in self.paid)
        return nano(first if first and not had else price)

    def begin(self, kind, at, part, *, free=False):
        tokens = OFFERINGS[self.offering][3]
        self.current = {
            "offering": self.offering, "amount": 0 if free else floor(self.price() * part), "credited": 0,
            "tokens": None if tokens is None else floor(tokens * part), "used": 0, "begin": at, "end": self.end,
        }  # fmt: skip
        if self.current["amount"]:
            self.rows.append((kind, self.current["amount"]))
            self.paid.append(self.current)

    def join(self, at):
        begin, self.end = self.whole(at)
        policy = OFFERINGS[self.offering][0]
        rest = Fraction(micros(at, self.end), micros(begin, self.end))
        self.begin(
            "cycle", at, Fraction(1) if policy == "full" else rest,
            free=policy == "free_until_next_cycle" and at > begin,
        )  # fmt: skip

    def order(self, offering, now):
        self.offering, self.anchor, self.state = offering, now, "active"
        self.join(now)

    def renew(self, now):
        while self.state == "active" and self.end <= now:
            if self.ends:
                self.state = "expired"
                return
            at = self.end
            self.offering, self.next = self.next or self.offering, None
            _, self.end = self.whole(at)
            self.begin("cycle", at, Fraction(1))

    def unearned(self, now):
        x = self.current
        return Fraction(max(0, micros(now, x["end"])), micros(x["begin"], x["end"]))

    def left(self, now):
        return self.current["tokens"] - self.current["used"] if now < self.current["end"] else 0

    def credit(self, amount, kind):
        amount = min(amount, self.current["amount"] - self.current["credited"])
        if amount:
            self.current["credited"] += amount
            self.rows.append((kind, -amount))

    def back(self, x, now):
        """What a change or a cancellation gives back of the cycle that it ends."""
        if OFFERINGS[x["offering"]][0] != "prorate":
            return 0
        amount = floor(x["amount"] * Fraction(max(0, micros(now, x["end"])), micros(x["begin"], x["end"])))
        if x["tokens"]:
            left = x["tokens"] - x["used"] if now < x["end"] else 0
            amount = min(amount, floor(x["amount"] * Fraction(left, x["tokens"])))
        return amount

    def change(self, offering, now, when):
        self.renew(now)
        if self.state != "active" or offering == self.offering:
            return False
        policy = OFFERINGS[offering][0]
        if when == "cycle_end" or "free_until_next_cycle" in {policy, OFFERINGS[self.offering][0]}:
            self.next, self.ends = offering, False
            return True
        old, amount = self.current, self.back(self.current, now)
        self.offering, self.next, self.ends = offering, None, False
        begin, _ = self.whole(now)
        rest = Fraction(micros(now, self.end), micros(begin, self.end))
        self.begin("change", now, Fraction(1) if policy == "full" else rest)
        new, self.current = self.current, old
        self.credit(amount, "credit")
        self.current = new
        return True

    def suspend(self, now):
        self.renew(now)
        if self.state != "active":
            return False
        self.state = "suspended"
        return True

    def resume(self, now):
        if self.state != "suspended":
            return False
        self.state = "active"
        if self.end <= now:
            if self.ends:
                self.state = "expired"
                return True
            self.offering, self.next = self.next or self.offering, None
            self.join(now)
        return True

    def cancel(self, now, when):
        self.renew(now)
        if self.state not in {"active", "suspended"}:
            return False
        if when == "cycle_end":
            self.ends, self.next = True, None
            return True
        self.credit(self.back(self.current, now), "credit")
        self.state = "cancelled"
        return True

    def refund(self, now):
        self.renew(now)
        x = self.current
        if not x["amount"]:
            return False
        if self.state == "expired":
            return True  # of what ended with its cycle nothing is left
        if x["tokens"]:
            amount = floor(x["amount"] * Fraction(self.left(now), x["tokens"]))
        else:
            amount = floor(x["amount"] * self.unearned(now))
        self.state = "cancelled"
        self.credit(amount, "refund")
        return True


START = st.one_of(
    st.datetimes(datetime(2027, 1, 1), datetime(2029, 1, 1)),
    # Ends of months, leap days, the last and the first instants.
    st.builds(
        lambda month, offset: months_on(datetime(2027, 1, 1), month) + offset,
        st.integers(0, 20),
        st.sampled_from([timedelta(0), timedelta(seconds=-1), timedelta(microseconds=-1), timedelta(seconds=1), timedelta(hours=-3)]),
    ),
    st.sampled_from([datetime(2028, 1, 31, 12), datetime(2028, 2, 29, 23, 59, 59), datetime(2027, 12, 31, 23, 59)]),
)  # fmt: skip
WAIT = st.one_of(
    st.timedeltas(timedelta(0), timedelta(days=40)),
    st.sampled_from([timedelta(0), timedelta(seconds=1), timedelta(hours=3), timedelta(days=15), timedelta(days=70)]),
    st.just("to the end"),
    st.just("past the end"),
    st.just("before the end"),
)  # fmt: skip
STEP = st.tuples(
    WAIT,
    st.sampled_from(["change", "change", "change later", "suspend", "resume", "cancel", "cancel later", "refund", "spend", "nothing"]),
    st.integers(0, 11),
    st.integers(1, 400_000),
)  # fmt: skip


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 1, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


def local(clock):
    return clock.now().astimezone(BILLING_ZONE).replace(tzinfo=None)


def move_to(clock, at):
    clock.move(at.replace(tzinfo=BILLING_ZONE) - clock.now())


def run(services, clock, start, cycle, first, steps):
    move_to(clock, start)
    ids = [id_ for id_, terms in OFFERINGS.items() if terms[4].startswith(cycle)]
    who = services.subscriptions.register(f"+86{10**10 + uuid7().int % 10**10}")
    spender, book = Spender(services), Book()
    order = services.orders.place(who, ids[first])
    product = order.product_id
    book.order(ids[first], start)

    def tried(right, do):
        try:
            with services.connection.transaction():
                do()
        except TokenworksError:
            assert not right, "the product refused what is right"
        else:
            assert right, "the product did what is to be refused"

    def compare(what):
        found = services.charges.of_subscriber(who.subscriber_id)
        assert [(c.kind, c.amount_nano) for c in found] == book.rows, what
        assert services.charges.receivable(who.account_id) == sum(amount for _, amount in book.rows)
        assert all(c.credited_nano <= c.amount_nano for c in found if c.amount_nano > 0)

    compare("order")
    for wait, action, which, tokens in steps:
        now = local(clock)
        ends = {
            "to the end": timedelta(0),
            "past the end": timedelta(seconds=10),
            "before the end": -timedelta(seconds=7),
        }
        if isinstance(wait, str):
            now = max(now, book.end + ends[wait])
        else:
            now += wait
        move_to(clock, now)
        offering = ids[which]
        if action.startswith("change"):
            when = "cycle_end" if action == "change later" else "now"
            tried(
                book.change(offering, now, when),
                lambda o=offering, w=when: services.orders.change(product, o, w),
            )
        elif action.startswith("cancel"):
            when = "cycle_end" if action == "cancel later" else "now"
            tried(book.cancel(now, when), lambda w=when: services.orders.cancel(product, w))
        elif action == "suspend":
            tried(book.suspend(now), lambda: services.orders.suspend(product))
        elif action == "resume":
            tried(book.resume(now), lambda: services.orders.resume(product))
        elif action == "refund" and book.state in {"active", "suspended"}:
            tried(
                book.refund(now), lambda: services.refunds.refund(order.order_id, "unused", "a test's reason")
            )
        services.orders.run_cycles()
        book.renew(now)
        if action == "spend" and book.state == "active" and book.current["tokens"] is not None:
            part = min(tokens, book.left(now))
            if part:
                assert spender.spend(who.account_id, part)
                book.current["used"] += part
        compare((now, action, offering))
        assert services.orders.product(product)[0].state == book.state
    # Nobody pays more for a cycle than the dearest plan of it costs, but where a policy says so.
    if not any(terms.startswith(("cal-f", "ann-f")) for terms in {x["offering"] for x in book.paid}):
        cycles = {}
        for x in book.paid:
            cycles.setdefault(x["end"], []).append(x)
        for parts in cycles.values():
            dearest = max(nano(OFFERINGS[x["offering"]][1]) for x in parts)
            assert sum(x["amount"] - x["credited"] for x in parts) <= dearest + sum(
                x["amount"] * x["used"] // x["tokens"] for x in parts if x["tokens"]
            )
    services.charges.recognise()
    assert verify(services.connection, services.offerings.rate_cards()) == []


@pytest.mark.parametrize("cycle", ["cal", "ann"])
@pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.nightly)])
def test_every_operation_costs_what_plain_arithmetic_says(services, clock, cycle, examples):
    services.offerings.load(catalogue(*LINES))

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
    )  # fmt: skip
    @given(start=START, first=st.integers(0, 11), steps=st.lists(STEP, min_size=1, max_size=7))
    def try_it(start, first, steps):
        run(services, clock, start, cycle, first, steps)

    try_it()
