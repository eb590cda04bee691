"""Facts about subscribers and orders."""

from tokenworks.kernel import Conflict, NotFound


class MemberNotFound(NotFound):
    """No such member of this subscriber."""


class MemberExists(Conflict):
    """The subscriber has a member of this name."""


class SubscriberNotFound(NotFound):
    """No such subscriber."""


class PhoneTaken(Conflict):
    """The number has a subscriber."""


class KeyReused(Conflict):
    """The idempotency key was used for another order."""


class ProductNotFound(NotFound):
    """No such product."""


class ProductEnded(Conflict):
    """The product is cancelled or expired already."""
