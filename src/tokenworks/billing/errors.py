"""Facts about bills, payments, charge files and refunds."""

from tokenworks.kernel import Conflict, Invalid, NotFound, Refused


class BillNotFound(NotFound):
    """No such bill, or line of it."""


class BillSettled(Conflict):
    """The bill is paid already."""


class PaymentTooMuch(Conflict):
    """More than what is left of a bill can't be paid on it."""


class PaymentNotFound(NotFound):
    """No such payment."""


class RefundNotFound(NotFound):
    """No such refund."""


class PaymentReused(Conflict):
    """The payment's reference was used for another payment."""


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


class RefundNotAllowed(Conflict):
    """There is nothing to refund, or it is refunded already."""
