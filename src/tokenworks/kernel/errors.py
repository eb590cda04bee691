"""The error tree. Names are facts; the message says what to do. HTTP status and exit code are decided at the edge.

TokenworksError
  Invalid       what came in is not what this takes; nothing changed
  NotFound      there is no such thing (or it is not yours)
  Conflict      it is there, in a state that does not allow this; nothing changed
  Refused       understood and not allowed; nothing changed, nothing charged
  Unavailable   not now: something this needs does not answer
"""


class TokenworksError(Exception):
    """The root: everything that we raise on purpose. Its text is one clear sentence."""


class Invalid(TokenworksError):
    """What came in is not what this takes; nothing changed."""


class NotFound(TokenworksError):
    """There is no such thing, or it is not yours."""


class Conflict(TokenworksError):
    """It is there, in a state that does not allow this; nothing changed."""


class Refused(TokenworksError):
    """Understood and not allowed; nothing changed, nothing charged."""


class Unavailable(TokenworksError):
    """Not now: something this needs does not answer."""
