"""Facts about subscribers and orders."""

from tokenworks.kernel import Conflict, NotFound


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
