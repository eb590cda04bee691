"""Payments, and payouts to who is closed."""

import pytest

from tests.support.april import to_may
from tests.support.auditor import verify
from tests.support.spend import balances
from tokenworks.billing import BillSettled, PaymentDeclined, PaymentReused, PayoutNotAllowed, TestProvider
from tokenworks.kernel import Invalid

YUAN = 1_000_000_000


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
