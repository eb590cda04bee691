"""Random lives of bills: charged, credited, paid short, exactly, too much and twice, sent, answered late, twice or never, taken back,
paid out, closed. After every step what is open is what a naive oracle says from the bare facts, and the ledger balances.
"""

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.spend import balances
from tokenworks.billing import (
    BillSettled,
    CarrierNotAnswered,
    ChannelNotAllowed,
    PaymentReversed,
    PayoutNotAllowed,
    RefundNotAllowed,
)
from tokenworks.charging import RefundTooMuch
from tokenworks.kernel import Conflict, ManualClock, Refused
from tokenworks.subscriptions import BILLING_ZONE

FEN = 10_000_000
STEPS = 110


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 3, tzinfo=BILLING_ZONE).astimezone(UTC))


def half_up(nano):
    return (abs(nano) + FEN // 2) // FEN * (1 if nano >= 0 else -1)


class Books:
    """What is known of one subscriber from what was done to it, in fen; nothing of what the product keeps as open."""

    def __init__(self):
        self.paid = []  # [bill number, fen, reversed, payment]
        self.out = 0

    def credited(self, services, subscriber, bill):
        """Fen taken off a bill's lines: credits of a line rounded together, each new one by what that changes."""
        charges = services.charges.of_subscriber(subscriber.subscriber_id)
        total = 0
        for line in services.bills.lines(bill):
            own = [c for c in charges if (c.bill_id, c.line_no) == (bill.bill_id, line.line_no)]
            ids = {c.charge_id for c in own}
            given = [c for c in charges if c.of_charge_id in ids]
            early = -sum(c.amount_nano for c in given if c.bill_id is not None)
            late = -sum(c.amount_nano for c in given if c.bill_id is None)
            charged = sum(c.amount_nano for c in own)
            if late:
                line_fen = half_up(charged)
                after = line_fen if early + late == charged else min(line_fen, half_up(early + late))
                total += after - min(line_fen, half_up(early))
        return total

    def open(self, services, subscriber):
        """({bill number: fen}, free credit in fen): the oldest bill first."""
        bills = sorted(services.bills.all(subscriber)[0], key=lambda b: (b.period_end, b.bill_id))
        left, spare = {}, -self.out
        for bill in bills:
            owed = bill.amount_nano // FEN - self.credited(services, subscriber, bill)
            owed -= sum(fen for number, fen, back, _ in self.paid if number == bill.bill_no and not back)
            left[bill.bill_no] = max(0, owed)
            spare += max(0, -owed)
        for number, owed in left.items():
            netted = min(max(0, spare), owed)
            left[number], spare = owed - netted, spare - netted
        return left, spare


class Life:
    def __init__(self, services, clock, seed):
        self.services, self.clock, self.dice = services, clock, random.Random(seed)
        self.people = {}
        self.files = []  # (sequence, [(bill number, name, fen)], answers of its lines so far)
        self.number = 0
        self.taken_back = set()
        self.done = {}

    def join(self, name, phone):
        self.people[name] = (self.services.subscriptions.register(phone, name), Books())

    def of(self, name):
        subscriber, books = self.people[name]
        return self.services.subscriptions.find(str(subscriber.subscriber_id)), books

    def some(self):
        return self.dice.choice(sorted(self.people))

    def bills(self, name):
        return self.services.bills.all(self.of(name)[0])[0]

    def ref(self):
        self.number += 1
        return f"ref-{self.number}"

    # What is done. Each returns whether something was.

    def place(self):
        subscriber, _ = self.of(self.some())
        plans = {p.offering_id for p in self.services.orders.products(subscriber) if p.state == "active"}
        wanted = [o for o in ("ctc-light", "ctc-standard") if o not in plans]
        if subscriber.state != "active" or subscriber.restricted or not wanted:
            return False
        self.services.orders.place(subscriber, self.dice.choice(wanted))
        return True

    def change(self):
        subscriber, _ = self.of(self.some())
        live = [
            p
            for p in self.services.orders.products(subscriber)
            if p.state == "active" and p.offering_id == "ctc-light"
        ]
        if not live or subscriber.state != "active":
            return False
        try:
            self.services.orders.change(live[0].product_id, "ctc-premium")
        except (Conflict, Refused):
            return False
        return True

    def refund(self):
        """Of a charge that is billed or not, in nano: the rounding is posted."""
        subscriber, _ = self.of(self.some())
        orders = [o for o in self.services.orders.all(subscriber)[0] if o.action == "add"]
        if not orders:
            return False
        try:
            self.services.refunds.refund(
                self.dice.choice(orders).order_id,
                "amount",
                "a gesture",
                amount_nano=self.dice.randrange(1, 3 * 10**9),
            )
        except (RefundNotAllowed, RefundTooMuch):
            return False
        return True

    def correct(self):
        name = self.some()
        bills = self.bills(name)
        if not bills:
            return False
        bill = self.dice.choice(bills)
        line = self.dice.choice(self.services.bills.lines(bill))
        if line.amount_nano <= 0:
            return False
        fen = self.dice.choice(
            [1, line.amount_nano // FEN, self.dice.randrange(1, line.amount_nano // FEN + 1)]
        )
        try:
            self.services.bills.correct(bill, line.line_no, fen * FEN, "wrong")
        except RefundTooMuch:
            return False
        return True

    def pay(self):
        name = self.some()
        bills = self.bills(name)
        if not bills:
            return False
        bill, reference = self.dice.choice(bills), self.ref()
        due = bill.remaining_nano // FEN
        fen = self.dice.choice([None, due, max(1, due // 2), due + self.dice.randrange(1, 2000)])
        if fen == 0:
            return False
        amount = None if fen is None else fen * FEN
        books = self.of(name)[1]
        written_off = [
            row
            for row in books.paid
            if row[3].method == "write_off" and row[0] == bill.bill_no and not row[2]
        ]
        try:
            made = self.services.payments.pay(bill, "bank_transfer", reference, amount)
        except BillSettled:
            assert amount is None and bill.remaining_nano == 0 and not written_off
            return False
        for row in written_off:
            row[2] = True
        again = self.services.payments.pay(bill, "bank_transfer", reference, amount)
        assert (again.payment_id, again.new) == (made.payment_id, False)
        books.paid.append([bill.bill_no, made.amount_nano // FEN, False, made])
        return True

    def reverse(self):
        subscriber, books = self.of(self.some())
        lasting = [row for row in books.paid if not row[2]]
        if not lasting:
            return False
        row = self.dice.choice(lasting)
        self.services.payments.reverse(row[3], "chargeback")
        with pytest.raises(PaymentReversed):
            self.services.payments.reverse(row[3], "chargeback")
        row[2] = True
        # A line that the carrier collected and that was taken back stays so, whatever an answer says later.
        self.taken_back.add(row[3].reference.split("#")[0])
        return True

    def write_off(self):
        name = self.some()
        open_ = [b for b in self.bills(name) if b.remaining_nano]
        if not open_:
            return False
        bill = self.dice.choice(open_)
        try:
            made = self.services.payments.write_off(bill, "gone", self.ref())
        except CarrierNotAnswered:
            return False
        self.of(name)[1].paid.append([bill.bill_no, bill.remaining_nano // FEN, False, made])
        return True

    def file(self):
        made = self.services.charge_files.make_file()
        if made is None:
            return False
        sequence, text = made
        phones = {self.of(n)[0].phone: n for n in self.people if self.of(n)[0].state != "closed"}
        lines = []
        for row in text.splitlines():
            fields = row.split("|")
            if fields[0] == "D":
                name = phones[fields[3]]  # never a closed one's number
                assert fields[2] in {b.bill_no for b in self.bills(name)}, "a bill went with a number"
                assert (
                    int(fields[6]) == self.of(name)[1].open(self.services, self.of(name)[0])[0][fields[2]] > 0
                )
                assert 0 <= int(fields[7]) <= int(fields[6])
                lines.append((fields[2], name, int(fields[6])))
        self.files.append((sequence, lines, {}))
        return True

    def answer(self):
        """Now, late, twice and otherwise; or never."""
        if not self.files:
            return False
        sequence, lines, answers = self.dice.choice(self.files)
        said = {at: self.dice.random() < 0.6 for at in range(1, len(lines) + 1)}
        rows = [f"R|{at}|accepted|" if yes else f"R|{at}|rejected|no such number" for at, yes in said.items()]
        try:
            self.services.charge_files.acknowledge(
                "\r\n".join([f"A|tokenworks-phone-1|{sequence}", *rows, "", ""])
            )
        except Conflict:
            return False
        for at, (number, name, fen) in enumerate(lines, 1):
            books, reference = self.of(name)[1], f"tokenworks-phone-1:{sequence}:{at}"
            if said[at] and answers.get(at) is not True and reference not in self.taken_back:
                payments = self.services.payments.all(self.of(name)[0])[0]
                made, *before = [p for p in payments if p.reference.split("#")[0] == reference]
                assert all(p.reversed_at for p in before), "newest first"
                assert made.amount_nano == fen * FEN, "what was collected is booked"
                books.paid.append([number, fen, False, made])
            elif not said[at] and answers.get(at) is True:
                for row in books.paid:
                    if row[3].reference.split("#")[0] == reference:
                        row[2] = True
            if reference not in self.taken_back:
                answers[at] = said[at]
        return True

    def lapse(self):
        if not self.files or self.dice.random() < 0.7:
            return False
        sequence, _, _ = self.dice.choice(self.files)
        return self.services.charge_files.lapse(sequence, "never answered") > 0

    def resend(self):
        open_ = [b for b in self.bills(self.some()) if b.remaining_nano]
        if not open_:
            return False
        try:
            self.services.payments.set_channel(
                self.dice.choice(open_), self.dice.choice(["phone", "direct"]), "asked"
            )
        except (CarrierNotAnswered, ChannelNotAllowed):
            return False
        return True

    def close(self):
        """And the number has another holder."""
        name = self.some()
        subscriber, _ = self.of(name)
        if subscriber.state == "closed" or len(self.people) > 7:
            return False
        fresh = f"{name}'"
        self.people[fresh] = (self.services.subscriptions.change_owner(subscriber, fresh), Books())
        return True

    def phone(self):
        subscriber, _ = self.of(self.some())
        if subscriber.state == "closed":
            return False
        self.number += 1
        self.services.subscriptions.change_phone(subscriber, f"+86139{self.number:08d}")
        return True

    def pay_out(self):
        subscriber, books = self.of(self.some())
        left, spare = books.open(self.services, subscriber)
        try:
            made = self.services.payments.pay_out(subscriber, "cash", self.ref())
        except PayoutNotAllowed:
            return False
        assert made.amount_nano // FEN <= spare and not any(left.values())
        books.out += made.amount_nano // FEN
        return True

    def later(self):
        self.clock.move(timedelta(days=self.dice.randrange(1, 12), hours=self.dice.randrange(24)))
        self.services.orders.run_cycles()
        self.services.charges.recognise()
        self.services.bills.run()
        self.services.dunning.run_dunning()
        return True

    def check(self):
        for name in self.people:
            subscriber, books = self.of(name)
            left, spare = books.open(self.services, subscriber)
            bills = {b.bill_no: b for b in self.bills(name)}
            assert {number: b.remaining_nano for number, b in bills.items()} == {
                n: fen * FEN for n, fen in left.items()
            }
            assert all((b.state == "settled") == (b.remaining_nano == 0) for b in bills.values())
            charges = self.services.charges.of_subscriber(subscriber.subscriber_id)
            unbilled = sum(c.amount_nano for c in charges if c.bill_id is None and c.settles_bill_id is None)
            assert unbilled >= 0
            owed = self.services.charges.receivable(subscriber.account_id)
            assert owed == (sum(left.values()) - spare) * FEN + unbilled
            # And from the charges: within half a fen for each line and each credit.
            paid = sum(fen for _, fen, back, _ in books.paid if not back) - books.out
            exact = sum(c.amount_nano for c in charges) - paid * FEN
            assert abs(owed - exact) <= FEN // 2 * len(charges)
        assert balances(self.services)


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 20))]
)
def test_whatever_happens_what_is_open_is_what_the_facts_say(services, clock, seed):
    life = Life(services, clock, seed)
    for at in range(3):
        life.join(f"s{at}", f"+861380000{at:04d}")
    weights = {
        life.place: 6, life.change: 4, life.refund: 5, life.correct: 6, life.pay: 9, life.reverse: 5, life.write_off: 2,
        life.file: 6, life.answer: 6, life.lapse: 2, life.resend: 2, life.close: 1, life.phone: 1, life.pay_out: 2, life.later: 12,
    }  # fmt: skip
    for step in range(STEPS):
        (act,) = life.dice.choices(list(weights), list(weights.values()))
        if act():
            life.done[act.__name__] = life.done.get(act.__name__, 0) + 1
            try:
                life.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {step}, {act.__name__}: {error}") from error
    assert len(life.done) >= 10, life.done
