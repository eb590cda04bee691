"""Bills and questions about them, payments, the phone bill's charge files, refunds and dunning."""

from tokenworks.billing.bills import Bills
from tokenworks.billing.charge_file import LAYOUT, read_answer, write_file
from tokenworks.billing.disputes import QUESTION_CHARS_MAX, Disputes
from tokenworks.billing.errors import (
    AcknowledgementFaulty,
    BillNotFound,
    BillSettled,
    ChargeFileAnswered,
    ChargeFileNotFound,
    DisputeAnswered,
    DisputeNotFound,
    DisputeOpen,
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
    Dispute,
    DunningPlan,
    Payment,
    Payout,
    Refund,
)
from tokenworks.billing.payments import PaymentProvider, Payments, TestProvider
from tokenworks.billing.refunds import Part, Refunds

__all__ = [
    "LAYOUT",
    "QUESTION_CHARS_MAX",
    "AcknowledgementFaulty",
    "Bill",
    "BillNotFound",
    "BillRun",
    "BillSettled",
    "Bills",
    "ChargeFileAnswered",
    "ChargeFileNotFound",
    "CreditNote",
    "Dispute",
    "DisputeAnswered",
    "DisputeNotFound",
    "DisputeOpen",
    "Disputes",
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
    "read_answer",
    "render_pdf",
    "write_file",
]
