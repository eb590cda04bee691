"""Bills, payments, the phone bill's charge files, refunds and dunning."""

from tokenworks.billing.bills import Bills
from tokenworks.billing.charge_file import (
    LAYOUT,
    phone_place,
    phones_in,
    read_answer,
    without_phones,
    write_file,
)
from tokenworks.billing.errors import (
    AcknowledgementFaulty,
    BillNotFound,
    BillSettled,
    ChargeFileAnswered,
    ChargeFileNotFound,
    PaymentDeclined,
    PaymentReused,
    PaymentTooMuch,
    PayoutNotAllowed,
    RefundNotAllowed,
)
from tokenworks.billing.invoice import invoice_data, render_pdf
from tokenworks.billing.model import (
    Bill,
    BillRun,
    CreditNote,
    DunningPlan,
    Payment,
    Payout,
    Refund,
)
from tokenworks.billing.payments import PaymentProvider, Payments, TestProvider
from tokenworks.billing.refunds import Part, Refunds

__all__ = [
    "LAYOUT",
    "AcknowledgementFaulty",
    "Bill",
    "BillNotFound",
    "BillRun",
    "BillSettled",
    "Bills",
    "ChargeFileAnswered",
    "ChargeFileNotFound",
    "CreditNote",
    "DunningPlan",
    "Part",
    "Payment",
    "PaymentDeclined",
    "PaymentProvider",
    "PaymentReused",
    "PaymentTooMuch",
    "Payments",
    "Payout",
    "PayoutNotAllowed",
    "Refund",
    "RefundNotAllowed",
    "Refunds",
    "TestProvider",
    "invoice_data",
    "phone_place",
    "phones_in",
    "read_answer",
    "render_pdf",
    "without_phones",
    "write_file",
]
