"""Facts about identity, in order of precedence."""

from tokenworks.kernel import NotFound


class KeyNotFound(NotFound):
    """No such key id."""
