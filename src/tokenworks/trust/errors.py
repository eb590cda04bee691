"""Facts about identity, in order of precedence."""

from tokenworks.kernel import NotFound, Refused


class KeyMalformed(Refused):
    """No key, or one whose checksum is wrong: a typo."""


class KeyUnknown(Refused):
    """Never issued here, revoked or expired; the client is not told which."""


class KeyNotFound(NotFound):
    """No such key id."""
