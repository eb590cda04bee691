"""Errors about bills, payments, charge files, refunds and disputes."""

from tokenworks.kernel import Conflict, Invalid, NotFound, Refused
from tokenworks.subscriptions import KeyReused


class BillNotFound(NotFound):
    """No such bill, or line of it."""


class BillSettled(Conflict):
    """The bill is paid already."""


class PaymentNotFound(NotFound):
    """No such payment."""


class RefundNotFound(NotFound):
    """No such refund."""


class PaymentReused(KeyReused):
    """The payment's reference was used for another payment: take another one."""


class PaymentReversed(Conflict):
    """The payment is reversed already."""


class CaseNotFound(NotFound):
    """No such case to reconcile."""


class CaseClosed(Conflict):
    """The case to reconcile is closed already, with another resolution."""


class CarrierNotAnswered(Conflict):
    """The bill is in a charge file that the carrier has not answered: what it collects must have a bill to go to."""


class ChannelNotAllowed(Conflict):
    """The bill can't be collected so."""


class PaymentDeclined(Refused):
    """The provider did not take the money; nothing changed."""


class ChargeFileNotFound(NotFound):
    """No such charge file."""


class ChargeFileAnswered(Conflict):
    """The charge file is acknowledged already."""


class PayoutNotAllowed(Conflict):
    """Nothing is owed to the subscriber that could be paid out."""


class AcknowledgementFaulty(Invalid):
    """An acknowledgement that does not fit its charge file; nothing changed."""


class DisputeNotFound(NotFound):
    """No such question about a bill."""


class DisputeOpen(Conflict):
    """The line of the bill has a question that is not answered yet."""


class DisputeAnswered(Conflict):
    """The question is answered already."""


class RefundNotAllowed(Conflict):
    """There is nothing to refund, or it is refunded already."""
