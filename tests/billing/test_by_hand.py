"""Payments that a person books: by which methods, and where the test provider takes money."""

from datetime import timedelta

import pytest

from tokenworks.billing import BillSettled, PaymentDesk
from tokenworks.kernel import Invalid


@pytest.fixture
def bill(services, clock):
    li = services.subscriptions.register("+8613800000001", "Li")
    services.orders.cancel(services.orders.place(li, "ctc-light").product_id, "cycle_end")
    clock.move(timedelta(days=32))
    services.orders.run_cycles()
    services.bills.run_by_hand()
    ((made,), _) = services.bills.all(li)
    return made


@pytest.mark.parametrize("method", ["phone_bill", "write_off", "paypal", ""])
def test_what_comes_in_otherwise_is_not_booked_by_hand(services, bill, method):
    with pytest.raises(Invalid, match="bank_transfer, cash or test"):
        services.desk.take(bill, method, "r")
    assert services.bills.find(bill.bill_no).remaining_nano == bill.remaining_nano


def test_the_test_provider_takes_all_that_is_open_in_a_dev_environment_alone(services, bill):
    elsewhere = PaymentDesk(services.payments, is_dev=False)
    with pytest.raises(Invalid, match="dev"):
        elsewhere.take(bill, "test", "r")
    with pytest.raises(Invalid):
        services.desk.take(bill, "test", "r", bill.remaining_nano - 10**7)
    with services.transaction(dry_run=True):
        services.desk.take(bill, "test", "r", dry_run=True)
    assert services.bills.find(bill.bill_no).remaining_nano == bill.remaining_nano
    made = services.desk.take(bill, "test", "r")
    assert (made.method, made.amount_nano) == ("test", bill.remaining_nano)
    with pytest.raises(BillSettled):
        elsewhere.take(bill, "cash", "another")
