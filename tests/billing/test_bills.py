"""The bill run, bills, their lines and corrections."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.april import to_may
from tests.support.spend import balances
from tokenworks.app.process import jobs as jobs_module
from tokenworks.app.process.jobs import Jobs
from tokenworks.app.settings import load_settings
from tokenworks.billing import (
    BillNotFound,
)
from tokenworks.kernel import Conflict, Invalid
from tokenworks.subscriptions import BILLING_ZONE, KeyReused
from tokenworks.trust import ensure_pepper

YUAN = 1_000_000_000
M = 1_000_000


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
