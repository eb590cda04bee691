"""The error tree. Names are facts; the message says what to do. HTTP status and exit code are decided at the edge.

TokenworksError
  Invalid       the input is not valid; nothing changed
  NotFound      there is no such thing, or the caller may not see it
  Conflict      the state of the thing does not allow the operation; nothing changed
  Refused       the operation is understood and not allowed; nothing changed, nothing charged
  Unavailable   the operation needs something that does not answer at the moment
"""


class TokenworksError(Exception):
    """The root of all errors that are raised on purpose. Its text is one clear sentence."""


class Invalid(TokenworksError):
    """The input is not valid; nothing changed."""


class NotFound(TokenworksError):
    """There is no such thing, or the caller may not see it."""


class Conflict(TokenworksError):
    """The state of the thing does not allow the operation; nothing changed."""


class Refused(TokenworksError):
    """The operation is understood and not allowed; nothing changed, nothing charged."""


class Unavailable(TokenworksError):
    """The operation needs something that does not answer at the moment."""
