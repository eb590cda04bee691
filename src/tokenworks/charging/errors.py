"""Facts about charging, in order of precedence."""

from tokenworks.kernel import Conflict, NotFound, TokenworksError, Unavailable


class AccountNotFound(NotFound):
    """No such account."""


class GrantNotFound(NotFound):
    """No such grant."""


class GrantNotInDoubt(Conflict):
    """A grant whose host can still spend it: let it expire, or stop the host, before it is written off."""


class ChargeNotFound(NotFound):
    """No such charge."""


class AdjustmentNotFound(NotFound):
    """No such adjustment waits for a second person."""


class AdjustmentNotAllowed(Conflict):
    """The same person can't ask and decide; or the bucket has less than that."""


class CreditLimitReached(Conflict):
    """More would be owed than the subscriber's credit limit allows."""


class RefundTooMuch(Conflict):
    """More than what is left of a charge can't be given back."""


class FailedJobNotFound(NotFound):
    """No such job has failed, or it has been released or done since."""


class LimitNotFound(NotFound):
    """No such protective limit."""


class RequestNotFound(NotFound):
    """No request with this id: the sentence says what was looked for and where."""


class QuarantineNotFound(NotFound):
    """No such record is held in quarantine."""


class RecordRefused(TokenworksError):
    """A usage record that can't be settled as it is: it goes to quarantine."""


class TransferNotFound(NotFound):
    """There is no such transfer."""


class TransferNotAllowed(Conflict):
    """The cap has less than that left, or free at this moment."""


class RecorderAway(Unavailable):
    """The host's recorder does not answer: nothing can be finished, so nothing is begun."""


class GrantStillOpen(Conflict):
    """A grant has records that are not settled: it can't be closed yet."""


class JournalCorrupt(TokenworksError):
    """An invalid frame with valid ones after it. Nothing is settled past it; restore the segment or ask for help."""


class LedgerWentBack(TokenworksError):
    """The database has settled less than it had: a restore or a fail-over lost commits. The journal is replayed."""


class ChangesMissed(TokenworksError):
    """A host was away for longer than news are kept: it begins anew, from what there is now."""


class JournalFailed(TokenworksError):
    """A write or fsync failed: the file is never written again; the next recorder opens a new segment."""


class JournalBusy(Conflict):
    """Another recorder has this journal."""
