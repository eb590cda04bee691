"""Facts about subscribers and orders."""

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
    """What was asked for names more than one subscriber."""


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
    """The phone is reported lost: whoever has it gets its codes, so that they open nothing until the operator lifts that."""


class NotEligible(Refused):
    """The offering is not for this subscriber, or not beside what it has."""


class OtherAudience(NotEligible):
    """The offering is for other people."""


class NeedsFirst(NotEligible):
    """The offering goes with another one, which the subscriber does not have. `requires`: any of these."""

    def __init__(self, message: str, requires: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.requires = tuple(requires)


class BroadbandMissing(NotEligible):
    """The offering goes with a broadband account, and its number is not known."""


class DeliveredAlready(NotEligible):
    """What another system delivers is there already: it is delivered once."""


class HadAlready(NotEligible):
    """The subscriber, or its person, has had the offering as often as it can be had."""


class StepsThere(NotEligible):
    """Pay-as-you-go is there already: its steps are bought as they are needed."""


class TooManyToCome(Conflict):
    """So many orders wait for their start already."""


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
