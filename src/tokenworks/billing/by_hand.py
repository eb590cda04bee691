"""Payments that a person books: by which methods, and where the test provider takes money."""

from typing import Final

from tokenworks.billing.model import Bill, Payment
from tokenworks.billing.payments import Payments, TestProvider
from tokenworks.kernel import Invalid

METHODS: Final = ("bank_transfer", "cash", TestProvider.name)


class PaymentDesk:
    """`is_dev`: whether the test provider takes money here."""

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
        """Book what came in for a bill, or have the test provider take what is open on it; all that is open where no amount is
        said. `dry_run`: the test provider is asked nothing; what else is booked the caller rolls back. Raises `Invalid`, and what
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
