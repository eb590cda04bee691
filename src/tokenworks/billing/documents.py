"""Bills as documents for people."""

from pathlib import Path
from typing import Literal

from tokenworks.billing.bills import Bills
from tokenworks.billing.invoice import invoice_data, render_pdf
from tokenworks.billing.model import Bill
from tokenworks.charging import Charges
from tokenworks.subscriptions import Subscriptions


class Documents:
    """Makes documents of bills. `fonts_dir`: a folder with a Chinese font, beside the system's fonts."""

    def __init__(
        self,
        bills: Bills,
        charges: Charges,
        subscriptions: Subscriptions,
        operator: str,
        fonts_dir: Path | None = None,
    ) -> None:
        self._bills = bills
        self._charges = charges
        self._subscriptions = subscriptions
        self._operator = operator
        self._fonts_dir = fonts_dir

    def pdf(self, bill: Bill, language: Literal["zh", "en"] | None = None) -> bytes:
        """A bill as a PDF, by default in the subscriber's language. Raises `Unavailable` if no font shows Chinese."""
        subscriber = self._subscriptions.find(str(bill.subscriber_id))
        data = invoice_data(
            bill,
            self._bills.lines(bill),
            self._bills.credit_notes(bill),
            subscriber,
            self._charges.quantities(bill.account_id, bill.bill_id),
            self._operator,
            language or subscriber.language,
        )
        return render_pdf(data, self._fonts_dir)
