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


def test_a_month_is_billed_once_and_the_next_one_apart(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    assert services.bills.run().bills == 0  # the month is not over
    to_may(services, clock)
    assert services.bills.due() == (1, 9_900_000_000)
    run = services.bills.run()
    assert (run.bills, run.lines, run.amount_nano) == (1, 1, 9_900_000_000)
    assert services.bills.run().bills == 0
    ((bill,), _) = services.bills.all(subscriber)
    assert bill.period_end == datetime(2027, 5, 1, tzinfo=BILLING_ZONE)
    assert (bill.amount_nano, bill.remaining_nano, bill.state) == (9_900_000_000, 9_900_000_000, "new")
    assert bill.tax_nano == 560_000_000  # 9.90 * 6 / 106 = 0.5604 in fen
    assert bill.due_at == clock.now() + timedelta(days=15)
    assert services.bills.find(bill.bill_no) == services.bills.find(str(bill.bill_id)) == bill
    (line,) = services.bills.lines(bill)
    assert (line.charges, line.charged_nano, line.kind) == (1, 9_900_000_000, "cycle")
    clock.move(timedelta(days=31))
    services.orders.run_cycles()
    assert services.bills.run().bills == 1
    (newest, _) = services.bills.all(subscriber)[0]
    assert newest.period_start == bill.period_end
    with pytest.raises(BillNotFound):
        services.bills.find("20270501-999999999")
    assert balances(services)


def test_a_line_is_rounded_once_and_the_rounding_is_posted(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 3_333_333)
    clock.move(timedelta(days=1, seconds=1))
    services.orders.change(product, "ctc-standard")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    services.payg.control(subscriber, spill_over=True)
    assert spender.spend(subscriber.account_id, 40 * M)
    to_may(services, clock)
    run = services.bills.run()
    ((bill,), _) = services.bills.all(subscriber)
    lines = services.bills.lines(bill)
    steps = next(line for line in lines if line.kind == "step")
    assert (steps.charges, steps.amount_nano) == (
        len([c for c in services.charges.of_subscriber(subscriber.subscriber_id) if c.kind == "step"]),
        steps.charges * YUAN,
    )
    assert {line.kind for line in lines} == {"cycle", "change", "credit", "step"}
    for line in lines:
        exact = sum(
            c.amount_nano for c in services.charges.of_subscriber(subscriber.subscriber_id)
            if (c.bill_id, c.line_no) == (bill.bill_id, line.line_no)
        )  # fmt: skip
        assert line.charged_nano == exact
        assert abs(line.amount_nano - exact) <= 5_000_000 and line.amount_nano % 10_000_000 == 0
    assert run.amount_nano == sum(line.amount_nano for line in lines) == bill.amount_nano
    rounded = services.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'rounding'"
    ).fetchone()[0]
    assert rounded != 0
    assert balances(services)


def test_who_is_billed_on_another_day(services, clock):
    services.subscriptions.register("+8613800000002", bill_day=15)
    late = services.subscriptions.find("+8613800000002")
    services.orders.place(late, "ctc-light")
    clock.move(timedelta(days=13))
    assert services.bills.run().bills == 0
    clock.move(timedelta(days=1))
    assert services.bills.run().bills == 1
    ((bill,), _) = services.bills.all(late)
    assert bill.period_end == datetime(2027, 4, 15, tzinfo=BILLING_ZONE)
    assert balances(services)


def test_a_credit_is_taken_off_its_bill_and_what_exceeds_it_off_the_next_one(billed, subscriber, clock):
    services, bill = billed
    (product,) = services.orders.products(subscriber)
    services.orders.cancel(product.product_id, "cycle_end")
    services.bills.correct(bill, 1, 5 * YUAN, "twice as slow as promised")
    assert services.bills.open_nano(bill) == 4_900_000_000
    services.payments.pay(bill, "cash", "counter")
    # It is paid: this is credit, which no bill is open for yet.
    services.bills.correct(bill, 1, 3 * YUAN, "again")
    assert services.bills.open_nano(bill) == 0
    clock.move(timedelta(days=31))
    # May's own charge had been made.
    assert services.bills.run().amount_nano == 9_900_000_000
    ((may, _), _) = services.bills.all(subscriber)
    assert (may.amount_nano, may.remaining_nano, may.state) == (9_900_000_000, 6_900_000_000, "partiallyPaid")
    assert services.charges.receivable(bill.account_id) == 6_900_000_000
    assert balances(services)


def test_a_correction_is_a_credit_note_and_the_bill_stays(billed, subscriber):
    services, bill = billed
    before, lines = services.bills.find(bill.bill_no), services.bills.lines(bill)
    note = services.bills.correct(bill, 1, 3 * YUAN, "outage", "key")
    assert services.bills.correct(bill, 1, 3 * YUAN, "outage", "key") == note
    after = services.bills.find(bill.bill_no)
    assert (after.remaining_nano, after.state) == (6_900_000_000, "partiallyPaid")
    assert replace(after, remaining_nano=before.remaining_nano, state=before.state) == before
    assert services.bills.lines(bill) == lines
    assert services.bills.credit_notes(bill) == [note]
    for amount, line, reason in ((2 * YUAN, 1, "outage"), (3 * YUAN, 2, "outage"), (3 * YUAN, 1, "another")):
        with pytest.raises(KeyReused):
            services.bills.correct(bill, line, amount, reason, "key")
    assert note.tax_nano == 170_000_000  # in fen, as the bill's own
    for amount, line, error in [
        (7 * YUAN, 1, Conflict),
        (YUAN, 2, BillNotFound),
        (0, 1, Invalid),
        (-1, 1, Invalid),
        (5_000_000, 1, Invalid),
    ]:
        with pytest.raises(error):
            services.bills.correct(bill, line, amount, "more")
    with pytest.raises(Invalid, match="say why"):
        services.bills.correct(bill, 1, 1, " ")
    assert len(services.bills.credit_notes(bill)) == 1
    assert balances(services)


def test_a_server_bills_whose_period_has_ended(
    services, subscriber, clock, database_url, session_dir, monkeypatch
):
    services.orders.place(subscriber, "ctc-light")
    for run, due in ((0, 0), (24, 1)):
        options = load_settings({"data_dir": str(session_dir / "seed"), "bill_run_every_h": run}).settings
        ensure_pepper(options.secrets)
        jobs = Jobs(options, database_url)
        monkeypatch.setattr(jobs_module, "anchor_clock", lambda *_: None)
        monkeypatch.setattr(jobs_module, "AnchoredClock", lambda: clock)
        jobs.run()
        assert services.bills.all()[1] == 0, "its month is not over"
        if due:
            to_may(services, clock)
            jobs.run()
            assert services.bills.all()[1] == 0, "it looked a moment ago"
            Jobs(options, database_url).run()
            assert services.bills.all()[1] == 1
    assert balances(services)
