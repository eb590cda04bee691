"""Payments, and payouts to who is closed."""

import pytest

from tests.support.april import to_may
from tests.support.auditor import verify
from tests.support.spend import balances
from tokenworks.billing import BillSettled, PaymentDeclined, PaymentReused, PayoutNotAllowed, TestProvider
from tokenworks.kernel import Invalid

YUAN = 1_000_000_000


def test_payments_settle_a_bill_once(billed):
    services, bill = billed
    paid = services.payments.pay(bill, "bank_transfer", "ref-1", 4 * YUAN)
    again = services.payments.pay(bill, "bank_transfer", "ref-1", 4 * YUAN)
    assert (paid.payment_id, paid.new, again.new) == (again.payment_id, True, False)
    assert services.bills.find(bill.bill_no).state == "partiallyPaid"
    with pytest.raises(PaymentReused):
        services.payments.pay(bill, "bank_transfer", "ref-1", 5 * YUAN)
    for reference, amount in (("", YUAN), ("r", 1), ("r", 0), ("r", -YUAN), ("x" * 101, YUAN)):
        with pytest.raises(Invalid):
            services.payments.pay(bill, "cash", reference, amount)
    services.payments.pay(bill, "cash", "ref-3")
    settled = services.bills.find(bill.bill_no)
    assert (settled.state, settled.remaining_nano) == ("settled", 0)
    with pytest.raises(BillSettled):
        services.payments.pay(bill, "cash", "ref-4")
    assert services.payments.all()[1] == 2
    assert balances(services)


def test_a_provider_that_declines_changes_nothing(services, subscriber, clock):
    services.subscriptions.set_contract_price(subscriber, "ctc-light", "8.13", "c")
    services.orders.place(subscriber, "ctc-light")
    to_may(services, clock)
    services.bills.run()
    ((bill,), _) = services.bills.all(subscriber)
    with pytest.raises(PaymentDeclined):
        services.payments.collect(bill, TestProvider(), "r")
    assert services.payments.all()[1] == 0
    assert services.bills.find(bill.bill_no) == bill
    services.payments.pay(bill, "cash", "part", 1_010_000_000)
    services.payments.collect(services.bills.find(bill.bill_no), TestProvider(), "r2")
    assert services.bills.find(bill.bill_no).state == "settled"
    assert services.payments.collect(bill, TestProvider(), "r2").new is False
    assert balances(services)


def test_a_provider_takes_what_is_left_when_it_is_asked(billed):
    """Also where the bill that one looks at is an old one."""
    services, bill = billed

    class Counts(TestProvider):
        taken = ()

        def collect(self, reference, amount_nano, currency):
            self.taken = (*self.taken, amount_nano)

    provider = Counts()
    services.payments.pay(bill, "cash", "meanwhile", 4 * YUAN)
    assert services.payments.collect(bill, provider, "r").amount_nano == 5_900_000_000
    assert services.payments.collect(bill, provider, "r").new is False
    with pytest.raises(BillSettled):
        services.payments.collect(bill, provider, "r2")
    assert provider.taken == (5_900_000_000,)
    assert balances(services)


def test_a_closed_subscriber_gets_what_it_is_owed(services, owner, subscriber, clock):
    order = services.orders.place(subscriber, "ctc-standard")
    to_may(services, clock)
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    services.payments.pay(bill, "cash", "counter")
    with pytest.raises(PayoutNotAllowed, match="next bill"):
        services.payments.pay_out(subscriber, "cash", "out-1")
    services.bills.correct(bill, 1, 12 * YUAN, "sorry")
    services.refunds.refund(order.order_id, "whole", "leaves")
    services.subscriptions.close(subscriber)
    owed = -services.charges.receivable(subscriber.account_id)
    assert owed == 12 * YUAN
    made = services.payments.pay_out(subscriber, "cash", "out-1")
    assert made.amount_nano == owed // 10**7 * 10**7
    assert services.payments.pay_out(subscriber, "cash", "out-1") == made
    assert services.charges.receivable(subscriber.account_id) == 0
    with pytest.raises(PayoutNotAllowed, match="owed nothing"):
        services.payments.pay_out(subscriber, "cash", "out-2")
    other = services.subscriptions.register("+8613800000002")
    with pytest.raises(PaymentReused):
        services.payments.pay_out(other, "cash", "out-1")
    assert balances(services)
    # A payout that was changed, or that nothing was posted for, is found.
    owner.execute("ALTER TABLE payout DISABLE TRIGGER ALL")
    for change, back in (
        ("amount_nano = amount_nano + 1", "amount_nano = amount_nano - 1"),
        ("entry_id = payout_id", None),
    ):
        owner.execute(f"UPDATE payout SET {change}")
        found = {f.invariant for f in verify(services.connection, services.offerings.rate_cards())}
        assert "payout: it is posted" in found
        if back:
            owner.execute(f"UPDATE payout SET {back}")
            assert balances(services)


def test_who_owes_is_paid_nothing(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    to_may(services, clock)
    services.bills.run()
    services.subscriptions.close(subscriber)
    with pytest.raises(PayoutNotAllowed, match="owed nothing"):
        services.payments.pay_out(subscriber, "cash", "out")
    assert balances(services)
