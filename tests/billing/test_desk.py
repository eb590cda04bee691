"""Payments that a person books."""

import pytest

from tokenworks.billing import check_method, take_payment
from tokenworks.kernel import Invalid


def test_money_comes_in_by_the_ways_that_a_person_books():
    for method in ("bank_transfer", "cash", "test"):
        check_method(method)
    for method in ("phone_bill", "write_off", "", "Cash"):
        with pytest.raises(Invalid, match="bank_transfer, cash or test"):
            check_method(method)


class Booked:
    """Stands where `Payments` does, and keeps what it is asked for."""

    def __init__(self):
        self.asked = []

    def pay(self, *args):
        self.asked.append(("pay", *args))

    def collect(self, bill, provider, reference, *, dry_run):
        self.asked.append(("collect", bill, provider.name, reference, dry_run))


def take(payments, method, *, is_dev):
    return take_payment(payments, "bill", method, "r1", 100, is_dev=is_dev, dry_run=True)


def test_the_test_provider_takes_money_in_dev_alone():
    payments = Booked()
    for refused in ("test", "phone_bill"):
        with pytest.raises(Invalid):
            take(payments, refused, is_dev=False)
    assert payments.asked == []
    take(payments, "test", is_dev=True)
    take(payments, "cash", is_dev=False)
    assert payments.asked == [("collect", "bill", "test", "r1", True), ("pay", "bill", "cash", "r1", 100)]
