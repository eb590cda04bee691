from tokenworks.billing.bills import Bills
from tokenworks.billing.by_hand import PaymentDesk
from tokenworks.billing.charge_file import LAYOUT, decode_answer, phone_field, phones_in, read_answer, without_phones, write_file
from tokenworks.billing.charge_files import ChargeFiles
from tokenworks.billing.concessions import discount_nano, raise_nano
from tokenworks.billing.disputes import Disputes, QUESTION_CHARS_MAX
from tokenworks.billing.documents import Documents
from tokenworks.billing.dunning import Dunning
from tokenworks.billing.errors import AcknowledgementFaulty, BillNotFound, BillSettled, CarrierNotAnswered, CaseClosed, CaseNotFound, ChannelNotAllowed, ChargeFileAnswered, ChargeFileNotFound, DisputeAnswered, DisputeNotFound, DisputeOpen, PaymentDeclined, PaymentNotFound, PaymentReused, PaymentReversed, PayoutNotAllowed, RefundNotAllowed
from tokenworks.billing.focus import Focus
from tokenworks.billing.invoice import invoice_data, render_pdf
from tokenworks.billing.model import Bill, BillRun, Channel, Collection, CreditNote, Dispute, DunningPlan, Payment, Payout, ReconciliationCase, Refund, Reversal, open_amounts, tax_of_part
from tokenworks.billing.open_items import OpenItems
from tokenworks.billing.payments import Payments, TestProvider
from tokenworks.billing.providers import PaymentProvider
from tokenworks.billing.refunds import RefundPart, Refunds

__all__ = [
    "AcknowledgementFaulty",
    "Bill",
    "BillNotFound",
    "BillRun",
    "BillSettled",
    "Bills",
    "CarrierNotAnswered",
    "CaseClosed",
    "CaseNotFound",
    "Channel",
    "ChannelNotAllowed",
    "ChargeFileAnswered",
    "ChargeFileNotFound",
    "ChargeFiles",
    "Collection",
    "CreditNote",
    "Dispute",
    "DisputeAnswered",
    "DisputeNotFound",
    "DisputeOpen",
    "Disputes",
    "Documents",
    "Dunning",
    "DunningPlan",
    "Focus",
    "LAYOUT",
    "OpenItems",
    "Payment",
    "PaymentDeclined",
    "PaymentDesk",
    "PaymentNotFound",
    "PaymentProvider",
    "PaymentReused",
    "PaymentReversed",
    "Payments",
    "Payout",
    "PayoutNotAllowed",
    "QUESTION_CHARS_MAX",
    "ReconciliationCase",
    "Refund",
    "RefundNotAllowed",
    "RefundPart",
    "Refunds",
    "Reversal",
    "TestProvider",
    "decode_answer",
    "discount_nano",
    "invoice_data",
    "open_amounts",
    "phone_field",
    "phones_in",
    "raise_nano",
    "read_answer",
    "render_pdf",
    "tax_of_part",
    "without_phones",
    "write_file",
]
