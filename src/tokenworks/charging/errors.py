"""The errors of charging, in order of precedence."""

from tokenworks.kernel import Conflict, Invalid, NotFound, TokenworksError, Unavailable


class AccountNotFound(NotFound):
    """No such account."""


class GrantNotFound(NotFound):
    """No such grant."""


class GrantNotInDoubt(Conflict):
    """A grant that its host can still spend: it must expire, or its host stop, before it is written off."""


class ChargeNotFound(NotFound):
    """No such charge."""


class AdjustmentNotFound(NotFound):
    """No such adjustment waits for a second person."""


class AdjustmentNotAllowed(Conflict):
    """One person cannot both request and decide an adjustment; or the bucket has less than the amount."""


class CreditLimitReached(Conflict):
    """The subscriber would owe more than the credit limit allows."""


class RefundTooMuch(Conflict):
    """A refund cannot be more than what is left of the charge."""


class ContentNotLogged(NotFound):
    """The log of a key has no such request: it was off, or the entry was deleted."""


class FailedJobNotFound(NotFound):
    """No such job has failed, or the job has been released or done since."""


class TooManyRecords(Invalid):
    """The account has more usage records in the time than a sum reads: ask for a shorter time."""


class LimitNotFound(NotFound):
    """No such protective limit."""


class RequestNotFound(NotFound):
    """No request with this id. The message says what was searched, and where."""


class QuarantineNotFound(NotFound):
    """No such record is held in quarantine."""


class RecordRefused(TokenworksError):
    """A usage record that cannot be settled: it goes to quarantine."""


class TransferNotFound(NotFound):
    """There is no such transfer."""


class TransferNotAllowed(Conflict):
    """The cap has less than the amount left, or free at this moment."""


class RecorderAway(Unavailable):
    """The host's recorder does not answer. No request could be finished, so none is begun."""


class GrantStillOpen(Conflict):
    """A grant cannot be closed yet, as some of its records are not settled."""


class JournalCorrupt(TokenworksError):
    """A segment has an invalid frame with valid ones after it. Nothing after it is settled; restore the segment or ask for help."""


class LedgerWentBack(TokenworksError):
    """The database lost commits that it had, by a restore or a fail-over. The journal is replayed."""


class ChangesMissed(TokenworksError):
    """A host was away for longer than changes are kept: it begins anew, from the present state."""


class JournalFailed(TokenworksError):
    """A write or an fsync failed. The file is never written again; the next recorder opens a new segment."""


class JournalBusy(Conflict):
    """Another recorder has this journal."""
