"""A year in minutes: twelve months of subscribers who order, upgrade, roll over, run out, spill over, are refunded, change their
number and leave. Every bill to the nano-yuan and every charge's revenue against a book that is kept here, in plain arithmetic
that shares nothing with the product; the ledger verified after each day.
"""

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from tests.support.auditor import verify
from tests.support.spend import Spender
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE

BEGIN = datetime(2027, 1, 1, 9, 30)
DAYS = 365
PRICES = {  # fen, tokens
    "ctc-light": (990, 10_000_000), "ctc-standard": (2990, 40_000_000), "ctc-premium": (4990, 80_000_000),
    "sample-rollover": (3990, 30_000_000), "sample-enterprise": (399_999, 2_500_000_000),
    "mobile": (100, 400_000), "shanghai": (100, 250_000),
}  # fmt: skip
ROLL = 15_000_000
FEN = 10_000_000


def month_later(at, day, months):
    index = at.year * 12 + at.month - 1 + months
    year, month = divmod(index, 12)
    first = datetime(year, month + 1, 1, at.hour, at.minute)
    last = (datetime(year + (month == 11), month % 12 + 2 if month < 11 else 1, 1) - timedelta(days=1)).day
    return first.replace(day=min(day, last))


def half_up(value):
    return int(value + Fraction(1, 2)) if value >= 0 else -int(-value + Fraction(1, 2))


def vat(amount):
    return half_up(Fraction(amount * 6, 106))


class Line:
    """What is charged or credited once."""

    def __init__(self, at, key, amount, quantity=0, tax=None):
        self.at, self.key, self.amount, self.quantity = at, key, amount, quantity
        self.tax = vat(amount) if tax is None else tax
        self.net = self.amount - self.tax
        self.used = self.earned = self.broken = self.given = self.credited = 0
        self.span = self.of = None
        self.billed = False


class Pot:
    def __init__(self, line, left, until, rank, number, roll=0):
        self.line, self.left, self.until, self.rank, self.number, self.roll = (
            line,
            left,
            until,
            rank,
            number,
            roll,
        )


class Book:
    """What one subscriber should owe, have and be billed."""

    def __init__(self, bill_day=1):
        self.lines, self.pots, self.bills = [], [], []
        self.plan = None  # (offering, first start, cycle start, cycle end, calendar, next offering, ends)
        self.current = None
        self.steps = None
        self.cap = 50
        self.spill = False
        self.bill_day = bill_day
        self.last_end = None
        self.number = 0

    def _pot(self, line, left, until, rank, roll=0):
        self.number += 1
        self.pots.append(Pot(line, left, until, rank, self.number, roll))

    def order(self, offering, now, calendar=True):
        self.plan = {
            "offering": offering,
            "first": now,
            "start": now,
            "calendar": calendar,
            "next": None,
            "ends": False,
        }
        self.plan["end"] = self._end(now)
        self._cycle(now, "cycle", self._rest(now))

    def _rest(self, now):
        """The part of the whole cycle that is left: of the calendar month, or from the last anniversary."""
        first, months = self.plan["first"], 0
        if self.plan["calendar"]:
            begin = now.replace(day=1, hour=0, minute=0)
        else:
            while month_later(first, first.day, months + 1) <= now:
                months += 1
            begin = month_later(first, first.day, months)
        end = self.plan["end"]
        return Fraction(int((end - now).total_seconds()), int((end - begin).total_seconds()))

    def _end(self, start):
        if self.plan["calendar"]:
            return month_later(start.replace(day=1, hour=0, minute=0), 1, 1)
        first = self.plan["first"]
        months = 1
        while month_later(first, first.day, months) <= start:
            months += 1
        return month_later(first, first.day, months)

    def _cycle(self, now, kind, part, at=None):
        fen, tokens = PRICES[self.plan["offering"]]
        amount, quantity = int(fen * FEN * part), int(tokens * part)
        self.current = Line(at or now, (kind, self.plan["offering"]), amount, quantity)
        self.current.span = (now, self.plan["end"])
        self.lines.append(self.current)
        self._pot(
            self.current,
            quantity,
            self.plan["end"],
            10,
            ROLL if self.plan["offering"] == "sample-rollover" else 0,
        )

    def midnight(self, now):
        """What ends, and what begins, up to now."""
        for pot in list(self.pots):
            if pot.until <= now and pot.left:
                moved = min(pot.left, pot.roll)
                if moved and self.plan:
                    until = self._after(pot.until)
                    if until > now:
                        self._pot(pot.line, moved, until, 9)
                pot.left = 0
        while self.plan and self.plan["end"] <= now:
            if self.plan["ends"]:
                self.plan = None
                break
            begin = self.plan["end"]
            self.plan["offering"] = self.plan["next"] or self.plan["offering"]
            self.plan["next"] = None
            self.plan["start"], self.plan["end"] = begin, self._end(begin)
            self._cycle(begin, "cycle", Fraction(1), at=now)

    def _after(self, end):
        return self._end(end)

    def spend(self, tokens, now):
        live = sorted(
            (p for p in self.pots if p.left and p.until > now), key=lambda p: (p.rank, p.until, p.number)
        )
        short = tokens - sum(p.left for p in live)
        if short > 0:
            if self.steps is None or (self.plan and not self.spill):
                return False
            fen, size = PRICES[self.steps]
            count = -(-short // size)
            month = [
                x
                for x in self.lines
                if x.key[0] == "step" and (x.at.year, x.at.month) == (now.year, now.month)
            ]
            if sum(x.amount - x.credited for x in month) + count * fen * FEN > self.cap * 100 * FEN:
                return False
            for _ in range(count):
                line = Line(now, ("step", self.steps), fen * FEN, size)
                self.lines.append(line)
                self._pot(line, size, now + timedelta(days=31), 50)
                live.append(self.pots[-1])
        for pot in live:
            part = min(tokens, pot.left)
            pot.left, tokens = pot.left - part, tokens - part
            pot.line.used += part
        return True

    def upgrade(self, offering, now):
        old, plan = self.current, self.plan
        left_s = int((plan["end"] - now).total_seconds())
        span_s = int((old.span[1] - old.span[0]).total_seconds())
        free = sum(p.left for p in self.pots if p.line is old)
        for pot in self.pots:
            if pot.line is old:
                pot.left = 0
        plan["offering"], plan["next"] = offering, None
        self._cycle(now, "change", self._rest(now))
        self._give_back(old, left_s, span_s, free, now, "changed")

    def _give_back(self, old, left_s, span_s, free, now, why):
        back = min(
            int(Fraction(old.amount * min(left_s, span_s), span_s)),
            int(Fraction(old.amount * free, old.quantity)),
        )
        self.credit(old, min(back, old.amount - old.credited), now, f"credit {why}")

    def refund_unused(self, now):
        line = self.current
        free = sum(p.left for p in self.pots if p.line is line)
        for pot in self.pots:
            pot.left = 0
        self.plan = None
        self.credit(
            line, min(line.amount * free // line.quantity, line.amount - line.credited), now, "refund"
        )

    def credit(self, line, amount, now, kind):
        if not amount:
            return
        tax = vat(line.credited + amount) - vat(line.credited)
        owed = line.net - line.earned - line.broken - line.given
        line.given += min(amount - tax, owed)
        line.credited += amount
        made = Line(now, (kind, line.key[1]), -amount, tax=-tax)
        # Of a line that is billed it is taken off that bill, and comes on no other.
        made.of, made.billed = line, line.billed
        self.lines.append(made)

    def close(self, now):
        line = self.current
        free = sum(p.left for p in self.pots if p.line is line)
        for pot in self.pots:
            pot.left = 0
        if self.plan:
            span = line.span[1] - line.span[0]
            left = self.plan["end"] - now
            self._give_back(
                line, int(left.total_seconds()), int(span.total_seconds()), free, now, "cancelled"
            )
        self.plan = self.steps = None

    def recognise(self, now):
        for line in self.lines:
            if line.amount <= 0:
                continue
            room = line.net - line.earned - line.broken - line.given
            more = max(0, min(int(Fraction(line.net * line.used, line.quantity)) - line.earned, room))
            line.earned += more
            if not any(p.left for p in self.pots if p.line is line):
                line.broken += room - more

    def bill(self, now):
        end = now.replace(day=self.bill_day, hour=0, minute=0)
        if end > now:
            end = month_later(end, self.bill_day, -1)
        due = [line for line in self.lines if not line.billed and line.at < end]
        if (self.last_end and self.last_end >= end) or sum(line.amount for line in due) <= 0:
            return
        groups = {}
        for line in due:
            line.billed = True
            groups.setdefault(line.key, []).append(line)
        for line in self.lines:
            if line.of is not None and line.of.billed:
                line.billed = True
        rows = sorted(half_up(Fraction(sum(x.amount for x in group), FEN)) for group in groups.values())
        tax = sum(half_up(Fraction(row * 6, 106)) for row in rows)
        self.bills.append((end, sum(rows) * FEN, tax * FEN, [row * FEN for row in rows]))
        self.last_end = end


# A whole audit costs more each day: at night it is made every day, else every quarter and when something happened.
@pytest.mark.parametrize(
    ("seed", "audited_days"),
    [(1, 91), *(pytest.param(seed, 1, marks=pytest.mark.nightly) for seed in (1, 2, 3, 4))],
)
def test_a_year(services, seed, audited_days):
    dice = random.Random(seed)
    clock, spender = services.clock, Spender(services)
    books, people = {}, {}

    def join(name, phone, **profile):
        people[name] = services.subscriptions.register(phone, name, **profile)
        books[name] = Book(profile.get("bill_day", 1))

    def again(name):
        people[name] = services.subscriptions.find(str(people[name].subscriber_id))
        return people[name]

    def product(name, offering=None):
        live = [p for p in services.orders.products(people[name]) if p.state == "active"]
        return next(p for p in live if offering is None or p.offering_id == offering)

    for at, name in enumerate(["up", "roll", "payg", "spill", "back", "firm", "leaver", "mid"]):
        join(name, f"+861380000{at:04d}", **({"bill_day": 15} if name == "mid" else {}))
    services.subscriptions.set_contract_price(people["firm"], "sample-enterprise", "3999.99", "2027-1")

    def order(name, offering, now, *, calendar=True):
        services.orders.place(people[name], offering)
        books[name].order(offering, now, calendar)

    def steps(name, offering, cap, *, spill=False):
        services.orders.place(
            people[name], {"mobile": "shanghai-mobile-payg", "shanghai": "shanghai-telecom-payg"}[offering]
        )
        services.payg.control(people[name], cap_nano=cap * 10**9, spill_over=spill)
        books[name].steps, books[name].cap, books[name].spill = offering, cap, spill

    begin = {
        "up": lambda now: order("up", "ctc-light", now),
        "roll": lambda now: order("roll", "sample-rollover", now, calendar=False),
        "payg": lambda now: steps("payg", "mobile", 3),
        "spill": lambda now: (order("spill", "ctc-light", now), steps("spill", "shanghai", 7, spill=True)),
        "back": lambda now: order("back", "ctc-premium", now),
        "firm": lambda now: order("firm", "sample-enterprise", now),
        "leaver": lambda now: order("leaver", "ctc-standard", now),
        "mid": lambda now: order("mid", "ctc-standard", now),
    }
    starts = {"up": 0, "roll": 30, "payg": 3, "spill": 12, "back": 40, "firm": 59, "leaver": 100, "mid": 20}
    habits = {
        "up": 900_000, "roll": 900_000, "payg": 60_000, "spill": 600_000, "back": 2_000_000, "firm": 60_000_000, "leaver": 900_000,
        "mid": 1_500_000,
    }  # fmt: skip

    def upgrade(name, offering, now):
        services.orders.change(product(name).product_id, offering)
        books[name].upgrade(offering, now)

    def later(name, offering):
        services.orders.change(product(name).product_id, offering, "cycle_end")
        books[name].plan["next"] = offering

    def refund(name, now):
        order_id = product(name).order_id
        services.refunds.refund(order_id, "unused", "not needed")
        books[name].refund_unused(now)

    def end_with_cycle(name):
        services.orders.cancel(product(name).product_id, "cycle_end")
        books[name].plan["ends"] = True

    def leave(name, now):
        services.subscriptions.close(again(name))
        books[name].close(now)

    events = {
        75: lambda now: upgrade("up", "ctc-standard", now),
        140: lambda now: refund("back", now),
        155: lambda now: order("back", "ctc-light", now),
        165: lambda now: services.subscriptions.change_phone(people["spill"], "+8613899999999"),
        190: lambda now: later("up", "ctc-light"),
        200: lambda now: upgrade("mid", "ctc-premium", now),
        240: lambda now: leave("leaver", now),
        250: lambda now: (
            upgrade("up", "ctc-premium", now),
            upgrade("up", "ctc-standard", now + timedelta()),
        ),
        300: lambda now: end_with_cycle("mid"),
    }
    for day in range(DAYS):
        now = BEGIN + timedelta(days=day, minutes=dice.randrange(600))
        clock.move(now.replace(tzinfo=BILLING_ZONE) - clock.now())
        services.orders.run_cycles()
        for book in books.values():
            book.midnight(now)
        for name, at in starts.items():
            if at == day:
                begin[name](now)
        if day in events:
            events[day](now)
        for name, habit in habits.items():
            if day >= starts[name]:
                tokens = dice.randrange(1, 2 * habit)
                served = (
                    spender.spend(people[name].account_id, tokens) if again(name).state == "active" else False
                )
                assert served == (
                    books[name].spend(tokens, now) if again(name).state == "active" else False
                ), (day, name)
        services.charges.recognise()
        services.bills.run()
        for book in books.values():
            book.recognise(now)
            book.bill(now)
        if day % audited_days == 0 or day in events or day == DAYS - 1:
            assert verify(services.connection, services.offerings.rate_cards()) == [], day
        for name, book in books.items():
            real = services.charges.of_subscriber(people[name].subscriber_id)
            assert [(c.amount_nano, c.tax_nano) for c in real] == [(x.amount, x.tax) for x in book.lines], (
                day,
                name,
            )
            assert [
                (c.recognised_nano, c.broken_nano, c.refunded_nano) for c in real if c.amount_nano > 0
            ] == [(x.earned, x.broken, x.given) for x in book.lines if x.amount > 0], (day, name)
    for name, book in books.items():
        bills = sorted(services.bills.all(people[name])[0], key=lambda bill: bill.period_end)
        made = [
            (
                b.period_end.astimezone(BILLING_ZONE).replace(tzinfo=None), b.amount_nano, b.tax_nano,
                sorted(line.amount_nano for line in services.bills.lines(b)),
            )
            for b in bills
        ]  # fmt: skip
        assert made == book.bills, name
        assert len(made) >= 5, name
    kinds = {line.key[0] for book in books.values() for line in book.lines}
    assert kinds == {"cycle", "change", "credit changed", "credit cancelled", "refund", "step"}


@pytest.fixture
def clock():
    return ManualClock(BEGIN.replace(tzinfo=BILLING_ZONE).astimezone(UTC))
