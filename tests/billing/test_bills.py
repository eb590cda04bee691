"""Bills, corrections, payments, charge files, refunds, dunning."""

import contextlib
import hashlib
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pypdfium2
import pytest

from tests.support.auditor import verify
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.process import jobs as jobs_module
from tokenworks.app.process.jobs import Jobs
from tokenworks.app.settings import load_settings
from tokenworks.billing import (
    AcknowledgementFaulty,
    BillNotFound,
    BillSettled,
    ChargeFileAnswered,
    ChargeFileNotFound,
    PaymentDeclined,
    PaymentReused,
    PayoutNotAllowed,
    RefundNotAllowed,
    TestProvider,
)
from tokenworks.charging import RefundTooMuch
from tokenworks.console import bill_pdf
from tokenworks.kernel import Conflict, Invalid, ManualClock
from tokenworks.subscriptions import BILLING_ZONE, KeyReused, OrderNotFound, SubscriberNotActive
from tokenworks.trust import ensure_pepper

YUAN = 1_000_000_000
M = 1_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li")


def to_may(works, clock):
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    works.orders.run_cycles()


@pytest.fixture
def billed(works, subscriber, clock):
    """(works, bill): April of a light plan."""
    works.orders.place(subscriber, "ctc-light")
    to_may(works, clock)
    works.bills.run()
    (bills, count) = works.bills.all(subscriber)
    assert count == 1
    return works, bills[0]


def test_a_month_is_billed_once_and_the_next_one_apart(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light")
    assert works.bills.run().bills == 0  # the month is not over
    to_may(works, clock)
    assert works.bills.due() == (1, 9_900_000_000)
    run = works.bills.run()
    assert (run.bills, run.lines, run.amount_nano) == (1, 1, 9_900_000_000)
    assert works.bills.run().bills == 0
    ((bill,), _) = works.bills.all(subscriber)
    assert bill.period_end == datetime(2027, 5, 1, tzinfo=BILLING_ZONE)
    assert (bill.amount_nano, bill.remaining_nano, bill.state) == (9_900_000_000, 9_900_000_000, "new")
    assert bill.tax_nano == 560_000_000  # 9.90 * 6 / 106 = 0.5604 in fen
    assert bill.due_at == clock.now() + timedelta(days=15)
    assert works.bills.find(bill.bill_no) == works.bills.find(str(bill.bill_id)) == bill
    (line,) = works.bills.lines(bill)
    assert (line.charges, line.charged_nano, line.kind) == (1, 9_900_000_000, "cycle")
    clock.move(timedelta(days=31))
    works.orders.run_cycles()
    assert works.bills.run().bills == 1
    (newest, _) = works.bills.all(subscriber)[0]
    assert newest.period_start == bill.period_end
    with pytest.raises(BillNotFound):
        works.bills.find("20270501-999999999")
    assert balances(works)


def test_a_line_is_rounded_once_and_the_rounding_is_posted(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 3_333_333)
    clock.move(timedelta(days=1, seconds=1))
    works.orders.change(product, "ctc-standard")
    works.orders.place(subscriber, "shanghai-mobile-payg")
    works.payg.control(subscriber, spill_over=True)
    assert spender.spend(subscriber.account_id, 40 * M)
    to_may(works, clock)
    run = works.bills.run()
    ((bill,), _) = works.bills.all(subscriber)
    lines = works.bills.lines(bill)
    steps = next(line for line in lines if line.kind == "step")
    assert (steps.charges, steps.amount_nano) == (
        len([c for c in works.charges.of_subscriber(subscriber.subscriber_id) if c.kind == "step"]),
        steps.charges * YUAN,
    )
    assert {line.kind for line in lines} == {"cycle", "change", "credit", "step"}
    for line in lines:
        exact = sum(
            c.amount_nano for c in works.charges.of_subscriber(subscriber.subscriber_id)
            if (c.bill_id, c.line_no) == (bill.bill_id, line.line_no)
        )  # fmt: skip
        assert line.charged_nano == exact
        assert abs(line.amount_nano - exact) <= 5_000_000 and line.amount_nano % 10_000_000 == 0
    assert run.amount_nano == sum(line.amount_nano for line in lines) == bill.amount_nano
    rounded = works.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'rounding'"
    ).fetchone()[0]
    assert rounded != 0
    assert balances(works)


def test_who_is_billed_on_another_day(works, clock):
    works.subscriptions.register("+8613800000002", bill_day=15)
    late = works.subscriptions.find("+8613800000002")
    works.orders.place(late, "ctc-light")
    clock.move(timedelta(days=13))
    assert works.bills.run().bills == 0
    clock.move(timedelta(days=1))
    assert works.bills.run().bills == 1
    ((bill,), _) = works.bills.all(late)
    assert bill.period_end == datetime(2027, 4, 15, tzinfo=BILLING_ZONE)
    assert balances(works)


def test_a_credit_is_taken_off_its_bill_and_what_exceeds_it_off_the_next_one(billed, subscriber, clock):
    works, bill = billed
    (product,) = works.orders.products(subscriber)
    works.orders.cancel(product.product_id, "cycle_end")
    works.bills.correct(bill, 1, 5 * YUAN, "twice as slow as promised")
    assert works.bills.open_nano(bill) == 4_900_000_000
    works.payments.pay(bill, "cash", "counter")
    # It is paid: this is credit, which no bill is open for yet.
    works.bills.correct(bill, 1, 3 * YUAN, "again")
    assert works.bills.open_nano(bill) == 0
    clock.move(timedelta(days=31))
    # May's own charge had been made.
    assert works.bills.run().amount_nano == 9_900_000_000
    ((may, _), _) = works.bills.all(subscriber)
    assert (may.amount_nano, may.remaining_nano, may.state) == (9_900_000_000, 6_900_000_000, "partiallyPaid")
    assert works.charges.receivable(bill.account_id) == 6_900_000_000
    assert balances(works)


def test_a_correction_is_a_credit_note_and_the_bill_stays(billed, subscriber):
    works, bill = billed
    before, lines = works.bills.find(bill.bill_no), works.bills.lines(bill)
    note = works.bills.correct(bill, 1, 3 * YUAN, "outage", "key")
    assert works.bills.correct(bill, 1, 3 * YUAN, "outage", "key") == note
    after = works.bills.find(bill.bill_no)
    assert (after.remaining_nano, after.state) == (6_900_000_000, "partiallyPaid")
    assert replace(after, remaining_nano=before.remaining_nano, state=before.state) == before
    assert works.bills.lines(bill) == lines
    assert works.bills.credit_notes(bill) == [note]
    for amount, line, reason in ((2 * YUAN, 1, "outage"), (3 * YUAN, 2, "outage"), (3 * YUAN, 1, "another")):
        with pytest.raises(KeyReused):
            works.bills.correct(bill, line, amount, reason, "key")
    assert note.tax_nano == 170_000_000  # in fen, as the bill's own
    for amount, line, error in [
        (7 * YUAN, 1, Conflict),
        (YUAN, 2, BillNotFound),
        (0, 1, Invalid),
        (-1, 1, Invalid),
        (5_000_000, 1, Invalid),
    ]:
        with pytest.raises(error):
            works.bills.correct(bill, line, amount, "more")
    with pytest.raises(Invalid, match="say why"):
        works.bills.correct(bill, 1, 1, " ")
    assert len(works.bills.credit_notes(bill)) == 1
    assert balances(works)


def test_payments_settle_a_bill_once(billed):
    works, bill = billed
    paid = works.payments.pay(bill, "bank_transfer", "ref-1", 4 * YUAN)
    again = works.payments.pay(bill, "bank_transfer", "ref-1", 4 * YUAN)
    assert (paid.payment_id, paid.new, again.new) == (again.payment_id, True, False)
    assert works.bills.find(bill.bill_no).state == "partiallyPaid"
    with pytest.raises(PaymentReused):
        works.payments.pay(bill, "bank_transfer", "ref-1", 5 * YUAN)
    for reference, amount in (("", YUAN), ("r", 1), ("r", 0), ("r", -YUAN), ("x" * 101, YUAN)):
        with pytest.raises(Invalid):
            works.payments.pay(bill, "cash", reference, amount)
    works.payments.pay(bill, "cash", "ref-3")
    settled = works.bills.find(bill.bill_no)
    assert (settled.state, settled.remaining_nano) == ("settled", 0)
    with pytest.raises(BillSettled):
        works.payments.pay(bill, "cash", "ref-4")
    assert works.payments.all()[1] == 2
    assert balances(works)


def test_a_provider_that_declines_changes_nothing(works, subscriber, clock):
    works.subscriptions.set_contract_price(subscriber, "ctc-light", "8.13", "c")
    works.orders.place(subscriber, "ctc-light")
    to_may(works, clock)
    works.bills.run()
    ((bill,), _) = works.bills.all(subscriber)
    with pytest.raises(PaymentDeclined):
        works.payments.collect(bill, TestProvider(), "r")
    assert works.payments.all()[1] == 0
    assert works.bills.find(bill.bill_no) == bill
    works.payments.pay(bill, "cash", "part", 1_010_000_000)
    works.payments.collect(works.bills.find(bill.bill_no), TestProvider(), "r2")
    assert works.bills.find(bill.bill_no).state == "settled"
    assert works.payments.collect(bill, TestProvider(), "r2").new is False
    assert balances(works)


def test_a_provider_takes_what_is_left_when_it_is_asked(billed):
    """Also where the bill that one looks at is an old one."""
    works, bill = billed

    class Counts(TestProvider):
        taken = ()

        def collect(self, reference, amount_nano, currency):
            self.taken = (*self.taken, amount_nano)

    provider = Counts()
    works.payments.pay(bill, "cash", "meanwhile", 4 * YUAN)
    assert works.payments.collect(bill, provider, "r").amount_nano == 5_900_000_000
    assert works.payments.collect(bill, provider, "r").new is False
    with pytest.raises(BillSettled):
        works.payments.collect(bill, provider, "r2")
    assert provider.taken == (5_900_000_000,)
    assert balances(works)


def many(works, count, clock):
    made = [works.subscriptions.register(f"+86137{at:08d}") for at in range(count)]
    for one in made:
        works.orders.place(one, "ctc-light")
    to_may(works, clock)
    works.bills.run()
    return made


def answer(sequence, *rows):
    return "\n".join([f"A|tokenworks-phone-1|{sequence}", *rows]) + "\n"


def test_a_charge_file_takes_each_bill_once_and_its_answer_pays_them(works, clock):
    many(works, 3, clock)
    sequence, text = works.payments.make_file()
    assert works.payments.make_file() is None
    rows = text.splitlines()
    head, *lines, tail = [row.split("|") for row in rows]
    assert head == ["H", "tokenworks-phone-1", "1", "2027-04-30T17:00:00Z", "3", "2970"]
    assert [line[:2] + line[3:] for line in lines] == [
        ["D", str(at + 1), f"+86137{at:08d}", "20270401", "20270430", "990", "56"] for at in range(3)
    ]
    body = "".join(f"{row}\n" for row in rows[:-1])
    assert tail == ["T", "3", "2970", hashlib.sha256(body.encode()).hexdigest()]
    assert works.payments.file(sequence) == text
    assert {b.state for b in works.bills.all()[0]} == {"sent"}

    given = answer(1, "R|1|accepted|", "R|2|rejected|no such number", "R|3|accepted|")
    assert works.payments.acknowledge(given, dry_run=True) == (2, 1)
    assert works.payments.all()[1] == 0
    assert works.payments.acknowledge(given) == (2, 1)
    with pytest.raises(ChargeFileAnswered):
        works.payments.acknowledge(given)
    assert sorted(b.state for b in works.bills.all()[0]) == ["new", "settled", "settled"]
    assert works.payments.files()[0]["rejected"] == 1
    # The rejected one comes again, three times in all.
    for again in (2, 3):
        sequence, text = works.payments.make_file()
        assert (sequence, text.count("\n")) == (again, 3)
        works.payments.acknowledge(answer(again, "R|1|rejected|no such number"))
    assert works.payments.make_file() is None
    assert balances(works)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["R|1|accepted|", "R|9|accepted|"], "the file has no line 9, it has 2"),
        (["R|1|accepted|", "R|0|accepted|"], "no line 0"),
        (["R|1|accepted|", "R|x|accepted|"], "no line x"),
        (["R|1|accepted|"], "line 2 of the file is not answered"),
        (["R|1|accepted|", "R|1|accepted|"], "answered twice"),
        (["R|1|accepted|", "R|2|maybe|"], "line 3: it is"),
        (["R|1|accepted|because", "R|2|accepted|"], "an accepted one has none"),
        (["R|1|rejected|", "R|2|accepted|"], "a rejected line has a reason"),
    ],
)
def test_an_answer_that_does_not_fit_changes_nothing(works, clock, rows, reason):
    many(works, 2, clock)
    works.payments.make_file()
    with pytest.raises(AcknowledgementFaulty, match=reason):
        works.payments.acknowledge(answer(1, *rows))
    with pytest.raises(ChargeFileNotFound):
        works.payments.acknowledge(answer(7, "R|1|accepted|"))
    for text in ("", "A|other|1\n", "A|tokenworks-phone-1|one\n"):
        with pytest.raises(AcknowledgementFaulty):
            works.payments.acknowledge(text)
    assert {b.state for b in works.bills.all()[0]} == {"sent"}
    assert works.payments.all()[1] == 0
    assert works.payments.acknowledge(answer(1, "R|1|accepted|", "R|2|accepted|")) == (2, 0)
    assert balances(works)


def test_what_was_paid_meanwhile_and_is_collected_too_is_credit(works, clock):
    one, _ = many(works, 2, clock)
    works.payments.make_file()
    ((bill,), _) = works.bills.all(one)
    works.payments.pay(bill, "cash", "at the counter")
    assert works.payments.acknowledge(answer(1, "R|1|accepted|", "R|2|accepted|")) == (2, 0)
    assert works.payments.all(one)[1] == 2
    assert works.charges.receivable(one.account_id) == 0  # May's own 9.90, not billed yet, less the credit
    ((case,), _) = works.payments.cases()
    assert (case.kind, case.bill_id, case.amount_nano) == ("surplus", bill.bill_id, 9_900_000_000)
    assert balances(works)


# Refunds.


def test_what_was_not_used_is_refunded_on_the_next_bill(works, subscriber, spender, clock):
    order = works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    (dry,) = works.refunds.refund(order.order_id, "unused", "moved away", dry_run=True)
    assert dry.amount_nano == 5_940_000_000
    assert works.orders.products(subscriber)[0].state == "active"
    (done,) = works.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert (done.state, done.amount_nano) == ("done", 5_940_000_000)
    (again,) = works.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert again.refund_id == done.refund_id
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "whole", "more")
    with pytest.raises(RefundNotAllowed):  # a key is a text, not a pattern
        works.refunds.refund(order.order_id, "unused", "more", idempotency_key="%")
    assert works.orders.products(subscriber)[0].state == "cancelled"
    to_may(works, clock)
    assert works.bills.run().amount_nano == 3_960_000_000
    works.charges.recognise()
    first = works.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert first.owed_nano == 0 and first.recognised_nano == first.net_nano * 4 // 10
    assert balances(works)


def test_a_whole_refund_reverses_revenue_by_an_entry_of_its_own(works, subscriber, spender):
    order = works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    works.charges.recognise()
    (done,) = works.refunds.refund(order.order_id, "whole", "did not work")
    assert done.amount_nano == 9_900_000_000
    assert works.charges.receivable(subscriber.account_id) == 0
    first = works.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert (
        first.recognised_nano == first.net_nano * 4 // 10
    )  # what was recognised stays; the refund stands against it
    refunds = works.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'refund'"
    ).fetchone()[0]
    assert refunds == first.recognised_nano
    works.charges.recognise()
    assert balances(works)


def test_a_refund_waits_for_what_is_granted(works, subscriber, spender):
    order = works.orders.place(subscriber, "ctc-light")
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 5 * M * 1000)
    (waits,) = works.refunds.refund(order.order_id, "unused", "moved away")
    assert (waits.state, waits.amount_nano) == ("pending", None)
    assert works.refunds.finish() == 0
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "unused", "moved away")
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 2 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert works.refunds.finish() == 1
    assert works.refunds.finish() == 0
    (done,) = works.refunds.of_order(order.order_id)
    assert (done.state, done.amount_nano) == ("done", 9_900_000_000 * 8 // 10)
    assert balances(works)


def test_an_amount_is_given_back_and_the_product_goes_on(works, subscriber):
    order = works.orders.place(subscriber, "ctc-light")
    works.refunds.refund(order.order_id, "amount", "sorry", amount_nano=2 * YUAN)
    works.refunds.refund(order.order_id, "amount", "sorry again", amount_nano=3 * YUAN)
    assert works.orders.products(subscriber)[0].state == "active"
    with pytest.raises(RefundTooMuch):
        works.refunds.refund(order.order_id, "amount", "and again", amount_nano=5 * YUAN)
    with pytest.raises(Invalid):
        works.refunds.refund(order.order_id, "amount", "no amount")
    with pytest.raises(OrderNotFound):
        works.refunds.refund(uuid4(), "whole", "none")
    assert works.charges.receivable(subscriber.account_id) == 4_900_000_000
    (rest,) = works.refunds.refund(order.order_id, "whole", "all of it")
    assert rest.amount_nano == 4_900_000_000
    works.charges.recognise()
    assert works.charges.receivable(subscriber.account_id) == 0
    assert balances(works)


def test_unused_steps_are_refunded_and_used_ones_are_not(works, subscriber, spender):
    order = works.orders.place(subscriber, "shanghai-mobile-payg")
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "unused", "nothing bought yet")
    assert spender.spend(subscriber.account_id, 500_000)
    (done,) = works.refunds.refund(order.order_id, "unused", "no more of it")
    assert done.amount_nano == YUAN * 3 // 4
    assert works.payg.spent(subscriber) == 2 * YUAN - YUAN * 3 // 4
    works.charges.recognise()
    assert balances(works)


# Dunning.


def test_who_does_not_pay_is_reminded_restricted_and_suspended_and_lifted_by_paying(
    billed, subscriber, spender, clock
):
    works, bill = billed

    def state():
        now = works.subscriptions.find(str(subscriber.subscriber_id))
        return now.state, now.restricted

    clock.move(timedelta(days=15 + 3) - timedelta(seconds=1))
    assert works.payments.run_dunning() == {}
    clock.move(timedelta(seconds=2))
    assert works.payments.run_dunning() == {"remind": 1}
    assert works.payments.run_dunning() == {}
    clock.move(timedelta(days=7))
    assert works.payments.run_dunning() == {"restrict": 1}
    assert state() == ("active", True)
    with pytest.raises(SubscriberNotActive):
        works.orders.place(subscriber, "ctc-standard")
    clock.move(timedelta(days=10))
    works.orders.run_cycles()
    assert works.payments.run_dunning() == {"suspend": 1}
    assert state() == ("suspended", True)
    assert (
        not spender.usable(subscriber.account_id)
        or spender.open(subscriber.account_id, spender.usable(subscriber.account_id)[0], 1000) is None
    )
    kinds = works.connection.execute("SELECT kind FROM notification ORDER BY notification_id").fetchall()
    assert [kind for (kind,) in kinds] == ["dunning.remind", "dunning.restrict", "dunning.suspend"]
    works.payments.pay(bill, "cash", "at last", 9 * YUAN)
    assert state() == ("suspended", True)
    works.payments.pay(bill, "cash", "and the rest")
    assert state() == ("active", False)
    assert spender.spend(subscriber.account_id, 100)
    assert balances(works)


# What people look at.


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_bill_is_a_pdf_that_says_it_all(billed, language):
    works, bill = billed
    works.bills.correct(bill, 1, YUAN, "outage")
    pdf = bill_pdf(works, bill, language)
    assert pdf == bill_pdf(works, bill, language)
    document = pypdfium2.PdfDocument(pdf)
    assert len(document) == 1
    text = document[0].get_textpage().get_text_range()
    assert "13800000001" not in text and "0001" in text
    words = {
        "zh": ["账单", "中国电信轻享版", "1,000 万词元", "合计", "¥9.90", "¥0.56", "2027-05-01", "更正"],
        "en": ["Bill", "China Telecom Light", "10,000,000 tokens", "Total", "¥9.90", "¥0.56", "2027-05-01", "Corrections"],
    }[language]  # fmt: skip
    for word in [*words, bill.bill_no]:
        assert word in text, (word, text)


def test_a_closed_subscriber_gets_what_it_is_owed(works, owner, subscriber, clock):
    order = works.orders.place(subscriber, "ctc-standard")
    to_may(works, clock)
    works.bills.run()
    (bill,), _ = works.bills.all(subscriber)
    works.payments.pay(bill, "cash", "counter")
    with pytest.raises(PayoutNotAllowed, match="next bill"):
        works.payments.pay_out(subscriber, "cash", "out-1")
    works.bills.correct(bill, 1, 12 * YUAN, "sorry")
    works.refunds.refund(order.order_id, "whole", "leaves")
    works.subscriptions.close(subscriber)
    owed = -works.charges.receivable(subscriber.account_id)
    assert owed == 12 * YUAN
    made = works.payments.pay_out(subscriber, "cash", "out-1")
    assert made.amount_nano == owed // 10**7 * 10**7
    assert works.payments.pay_out(subscriber, "cash", "out-1") == made
    assert works.charges.receivable(subscriber.account_id) == 0
    with pytest.raises(PayoutNotAllowed, match="owed nothing"):
        works.payments.pay_out(subscriber, "cash", "out-2")
    other = works.subscriptions.register("+8613800000002")
    with pytest.raises(PaymentReused):
        works.payments.pay_out(other, "cash", "out-1")
    assert balances(works)
    # A payout that was changed, or that nothing was posted for, is found.
    owner.execute("ALTER TABLE payout DISABLE TRIGGER ALL")
    for change, back in (
        ("amount_nano = amount_nano + 1", "amount_nano = amount_nano - 1"),
        ("entry_id = payout_id", None),
    ):
        owner.execute(f"UPDATE payout SET {change}")
        found = {f.invariant for f in verify(works.connection, works.offerings.rate_cards())}
        assert "payout: it is posted" in found
        if back:
            owner.execute(f"UPDATE payout SET {back}")
            assert balances(works)


def test_who_owes_is_paid_nothing(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light")
    to_may(works, clock)
    works.bills.run()
    works.subscriptions.close(subscriber)
    with pytest.raises(PayoutNotAllowed, match="owed nothing"):
        works.payments.pay_out(subscriber, "cash", "out")
    assert balances(works)


def test_an_answer_payments_dunning_and_recognition_at_once(works, clock, database_url, session_dir):
    """They lock subscribers, accounts and bills in one order: nobody waits for each other in a ring."""
    made = many(works, 40, clock)
    sequence, _ = works.payments.make_file()
    bills, _ = works.bills.all(None, 0, 100)
    clock.move(timedelta(days=60))
    works.payments.run_dunning()  # all are suspended: what is paid lifts it
    options = load_settings({"data_dir": str(session_dir / "seed")}).settings
    start, errors = threading.Barrier(5), []

    def run(what):
        try:
            with contextlib.closing(connect(database_url)) as connection:
                mine = make_works(options, connection, clock, {1: b"x" * 32})
                start.wait()
                what(mine)
        except Exception as error:
            errors.append(error)

    def acknowledge(mine):
        mine.payments.acknowledge(answer(sequence, *(f"R|{at}|accepted|" for at in range(1, len(made) + 1))))

    def pay(mine):
        for at, bill in enumerate(reversed(bills)):
            mine.payments.pay(bill, "cash", f"counter-{at}", YUAN)

    def recognise(mine):
        for _ in range(5):
            mine.charges.recognise()

    def correct(mine):
        for at, bill in enumerate(reversed(bills)):
            mine.bills.correct(bill, 1, YUAN, "late", f"correct-{at}")

    def dun(mine):
        for _ in range(5):
            mine.payments.run_dunning()

    threads = [
        threading.Thread(target=run, args=(what,)) for what in (acknowledge, pay, recognise, correct, dun)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert {bill.state for bill in works.bills.all(None, 0, 100)[0]} == {"settled"}
    assert {works.subscriptions.find(str(one.subscriber_id)).state for one in made} == {"active"}
    assert balances(works)


def test_a_server_bills_whose_period_has_ended(
    works, subscriber, clock, database_url, session_dir, monkeypatch
):
    works.orders.place(subscriber, "ctc-light")
    for run, due in ((0, 0), (24, 1)):
        options = load_settings({"data_dir": str(session_dir / "seed"), "bill_run_every_h": run}).settings
        ensure_pepper(options.secrets)
        jobs = Jobs(options, database_url)
        monkeypatch.setattr(jobs_module, "anchor", lambda *_: None)
        monkeypatch.setattr(jobs_module, "AnchoredClock", lambda: clock)
        jobs.run()
        assert works.bills.all()[1] == 0, "its month is not over"
        if due:
            to_may(works, clock)
            jobs.run()
            assert works.bills.all()[1] == 0, "it looked a moment ago"
            Jobs(options, database_url).run()
            assert works.bills.all()[1] == 1
    assert balances(works)
