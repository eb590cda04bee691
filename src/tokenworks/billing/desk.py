"""A payment that a person books: by which ways money comes in, and when the test provider may be asked."""

from typing import Final

from tokenworks.billing.model import Bill, Payment
from tokenworks.billing.payments import Payments, TestProvider
from tokenworks.kernel import Invalid

METHODS: Final = frozenset({"bank_transfer", "cash", "test"})


def check_method(method: str) -> None:
    """Raises `Invalid`."""
    if method not in METHODS:
        raise Invalid(
            "a payment comes in by bank_transfer, cash or test; the phone bill by `bill acknowledge`"
        )


def take_payment(
    payments: Payments,
    bill: Bill,
    method: str,
    reference: str,
    amount_nano: int | None,
    *,
    is_dev: bool,
    dry_run: bool,
) -> Payment:
    """`amount_nano` None: all that is open. The test provider takes that in any case. Raises what `pay` and `collect` raise."""
    check_method(method)
    if method != "test":
        return payments.pay(bill, method, reference, amount_nano)
    if not is_dev:
        raise Invalid('the test provider takes money only where environment = "dev"')
    return payments.collect(bill, TestProvider(), reference, dry_run=dry_run)
