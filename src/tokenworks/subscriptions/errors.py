"""Facts about subscribers and orders."""

from tokenworks.kernel import Conflict, NotFound, Refused
from tokenworks.trust import KeyReused as KeyReused  # noqa: PLC0414 - the same fact, of an order or a refund


class MemberNotFound(NotFound):
    """No such member of this subscriber."""


class MemberExists(Conflict):
    """The subscriber has a member of this name."""


class SubscriberNotFound(NotFound):
    """No such subscriber."""


class IdentityKnown(Conflict):
    """The subscriber is identified by another document."""


class SeveralFound(Conflict):
    """What was asked for names more than one subscriber."""


class PhoneTaken(Conflict):
    """The number has a subscriber."""


class ProductNotFound(NotFound):
    """No such product."""


class ProductEnded(Conflict):
    """The product is cancelled or expired already."""


class SubscriberNotActive(Conflict):
    """The subscriber is suspended or closed."""


class NotSuspended(Conflict):
    """The subscriber is not suspended for that cause."""


class PhoneLost(Refused):
    """The phone is reported lost: whoever has it gets its codes, so that they open nothing until the operator lifts that."""


class NotEligible(Refused):
    """The offering is not for this subscriber, or not beside what it has."""


class SecondNotConfirmed(Conflict):
    """The subscriber has it already, and the order does not say that it is to be had once more."""


class ChangeNotAllowed(Conflict):
    """The product can't be changed so, or not now."""


class OrderNotFound(NotFound):
    """No such order."""


class WorkOrderNotFound(NotFound):
    """No such work order."""


class WorkOrderAnswered(Conflict):
    """The work order is done or refused already."""


class CapBelowSpent(Conflict):
    """A monthly cap can't be below what this month has cost already."""


class TopUpNotFound(NotFound):
    """There is no such top-up."""


class TopUpNotAllowed(Conflict):
    """Nothing can be bought by hand: no pay-as-you-go, a lock, or the cap."""


class ConsentNeeded(Refused):
    """The subscriber has withdrawn a consent, or has not given one, that this needs."""


class ConsentTextChanged(Conflict):
    """What was agreed to is not the text that is shown now."""


class RealNameNeeded(Refused):
    """The real-name check is not done, or was refused, and this needs it."""


class RealNameRefused(Refused):
    """The real-name check can't be asked for: it was, too often, or with another identity."""
