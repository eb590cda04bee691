"""Facts about charging, in order of precedence."""

from tokenworks.kernel import Conflict, NotFound, Refused, TokenworksError, Unavailable


class AccountNotFound(NotFound):
    """No such account."""


class NothingLeft(Refused):
    """What the account has left does not cover the hold."""


class RecorderAway(Unavailable):
    """The host's recorder does not answer: nothing can be finished, so nothing is begun."""


class GrantStillOpen(Conflict):
    """A grant has records that are not settled: it can't be closed yet."""


class JournalCorrupt(TokenworksError):
    """An invalid frame with valid ones after it. Nothing is settled past it; restore the segment or ask for help."""


class JournalFailed(TokenworksError):
    """A write or fsync failed: the file is never written again; the next recorder opens a new segment."""


class JournalBusy(Conflict):
    """Another recorder has this journal."""
