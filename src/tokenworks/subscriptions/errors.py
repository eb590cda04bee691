"""The errors of subscribers and orders, each a named fact."""

from collections.abc import Sequence

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
    """The search text names more than one subscriber."""


class PhoneTaken(Conflict):
    """The number has a subscriber."""


class BroadbandTaken(Conflict):
    """The broadband number is another subscriber's."""


class ProductNotFound(NotFound):
    """No such product."""


class ProductEnded(Conflict):
    """The product is cancelled or expired already."""


class SubscriberNotActive(Conflict):
    """The subscriber is suspended or closed."""


class NotSuspended(Conflict):
    """The subscriber is not suspended for that cause."""


class PhoneLost(Refused):
    """The phone is reported lost: its codes open no session until the operator lifts the suspension."""


class NotEligible(Refused):
    """The offering is not for this subscriber, or not beside what it has."""


class OtherAudience(NotEligible):
    """The offering is for other people."""


class NeedsFirst(NotEligible):
    """The offering needs another one, which the subscriber does not have. `requires`: one of these."""

    def __init__(self, message: str, requires: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.requires = tuple(requires)


class BroadbandMissing(NotEligible):
    """The offering needs a broadband account, whose number is not known."""


class DeliveredAlready(NotEligible):
    """The subscriber has this add-on of another system already: it is delivered once."""


class HadAlready(NotEligible):
    """The subscriber, or its person, has had the offering as many times as it allows."""


class StepsThere(NotEligible):
    """The subscriber has this pay-as-you-go offering already: its steps are bought as they are needed."""


class TooManyToCome(Conflict):
    """The maximum of orders wait for their start already."""


class SecondNotConfirmed(Conflict):
    """The subscriber has the offering already, and the order does not confirm a second one."""


class ChangeNotAllowed(Conflict):
    """The product can't be changed in this way, or not now."""


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
    """A top-up is not possible: there is no pay-as-you-go, spending is locked, or the cap does not allow it."""


class ConsentNeeded(Refused):
    """A consent that is needed was withdrawn, or not given."""


class ConsentTextChanged(Conflict):
    """The consent is to another text than the one that is shown now."""


class RealNameNeeded(Refused):
    """A verified real name is needed, and the check is not done or was refused."""


class RealNameRefused(Refused):
    """The real-name check is not possible: there were too many today, or another identity is verified."""
