"""Payments that a person books: the allowed methods, and the test provider in a dev environment."""

from typing import Final

from tokenworks.billing.model import Bill, Payment
from tokenworks.billing.payments import Payments, TestProvider
from tokenworks.kernel import Invalid

METHODS: Final = ("bank_transfer", "cash", TestProvider.name)


class PaymentDesk:
    """`is_dev`: whether this is a dev environment, in which the test provider may be used."""

    def __init__(self, payments: Payments, *, is_dev: bool) -> None:
        self._payments = payments
        self._is_dev = is_dev

    def take(
        self,
        bill: Bill,
        method: str,
        reference: str,
        amount_nano: int | None = None,
        *,
        dry_run: bool = False,
    ) -> Payment:
        """Book money that came in for a bill, or have the test provider take it; without an amount, all that is open. With `dry_run` the
        test provider is not asked, and the caller rolls back what is booked. Raises `Invalid`, and what
        `Payments.pay` and `Payments.collect` raise.
        """
        if method not in METHODS:
            raise Invalid(
                "a payment comes in by bank_transfer, cash or test; the phone bill by `bill acknowledge`"
            )
        if method != TestProvider.name:
            return self._payments.pay(bill, method, reference, amount_nano)
        if not self._is_dev:
            raise Invalid('the test provider takes money only where environment = "dev"')
        return self._payments.collect(bill, TestProvider(), reference, amount_nano, dry_run=dry_run)
