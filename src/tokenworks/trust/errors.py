"""Facts about identity, in order of precedence."""

from tokenworks.kernel import Conflict, NotFound, Refused


class KeyNotFound(NotFound):
    """No such key id."""


class TooManyCodes(Refused):
    """Codes for a number, or from an address, were asked for too often."""

    def __init__(self, text: str, wait_s: int) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class CodeWrong(Refused):
    """The one-time code is wrong, used or too old."""


class NotSignedIn(Refused):
    """Nobody, or nobody known, asks."""


class NotAllowed(Refused):
    """Whoever asks may not do this."""


class StaffExists(Conflict):
    """There is staff of this name."""


class StaffNotFound(NotFound):
    """There is no such staff."""
