from tokenworks.charging.errors import AccountNotFound, AdjustmentNotAllowed, AdjustmentNotFound, ChargeNotFound, CreditLimitReached, FailedJobNotFound, JournalBusy, JournalCorrupt, JournalFailed, LedgerWentBack, RecorderAway, RefundTooMuch, TransferNotAllowed, TransferNotFound
from tokenworks.charging.host.grants import HostGrants
from tokenworks.charging.host.journal import Journal, read_frames, sync_folder
from tokenworks.charging.host.journal_copy import SegmentCopy, copy_journal, journal_end, journal_locked, put_journal, put_journal_aside
from tokenworks.charging.host.journal_inspection import inspect_journal, read_journal_id, records_after
from tokenworks.charging.host.limits import HostLimits
from tokenworks.charging.host.port import DatabaseThread, GATHER_S, RecorderLedger
from tokenworks.charging.host.queues import HostQueues
from tokenworks.charging.host.recorder import COMMIT_US, Recorder
from tokenworks.charging.host.settlement import SETTLE_US, Settler
from tokenworks.charging.host.worker_connection import WorkerConnection
from tokenworks.charging.ledger.chains import chain_all, chain_batch
from tokenworks.charging.ledger.failures import FailedJobs, JOB_NAMES, JOB_STATES
from tokenworks.charging.ledger.following import ID_CHARS_MAX as REQUEST_ID_CHARS_MAX, RequestLookup
from tokenworks.charging.ledger.model import BalanceMove, Bucket, FailedJob, Host, JobName, Release, Transfer, by_shard
from tokenworks.charging.ledger.service import Ledger
from tokenworks.charging.ledger.transfers import Transfers
from tokenworks.charging.ledger.verify import Finding, verify
from tokenworks.charging.lost_journal import NotConfirmed, check_confirmed, check_undamaged, journal_to_reset, why_lost
from tokenworks.charging.messages import Attempt, CountedBy, Limit, Loss, Need, Part, QueueEntry, Start, State, UsageRecord, Verdict
from tokenworks.charging.model import COUNT_NEED, FOLLOW_UP, LOSS_CAUSES, PER_UNIT, RateLookup, decode_record, hold_rate, is_nothing, most, usage_record
from tokenworks.charging.money.adjustments import Adjustments
from tokenworks.charging.money.charges import Charges
from tokenworks.charging.money.model import Adjustment, BillLine, Charge, Sale
from tokenworks.charging.money.revenue import FEN_NANO, fen_of, share
from tokenworks.charging.prices import first_that_pays
from tokenworks.charging.questions import BLOCKED_KEYS, CLOCK_OFFSET, DATABASE_ALIVE, DEPLOYMENT_PAUSE, JOURNAL_SPACE, KEYS, LOSSY_ACCOUNTS, MISSING_PEPPERS, OBJECT_OWNER, PAUSED_DEPLOYMENTS, SNAPSHOT
from tokenworks.charging.wiring_messages import BlockedKeys, ClockOffset, DatabaseAlive, DeploymentPause, EndedKey, JournalSpace, KeyEnd, LiveKey, MissingPeppers, ObjectOwner, PausedDeployments, PublishedSnapshot, ScopedLimit, UpstreamObject
from tokenworks.charging.worker.account import AccountSlices, Hold, Shortage
from tokenworks.charging.worker.admission import Admission, NO_ANSWER
from tokenworks.charging.worker.client import RecorderClient
from tokenworks.charging.worker.pending import SliceWait
from tokenworks.charging.worker.slices import Slices

__all__ = [
    "AccountNotFound",
    "AccountSlices",
    "Adjustment",
    "AdjustmentNotAllowed",
    "AdjustmentNotFound",
    "Adjustments",
    "Admission",
    "Attempt",
    "BLOCKED_KEYS",
    "BalanceMove",
    "BillLine",
    "BlockedKeys",
    "Bucket",
    "CLOCK_OFFSET",
    "COMMIT_US",
    "COUNT_NEED",
    "Charge",
    "ChargeNotFound",
    "Charges",
    "ClockOffset",
    "CountedBy",
    "CreditLimitReached",
    "DATABASE_ALIVE",
    "DEPLOYMENT_PAUSE",
    "DatabaseAlive",
    "DatabaseThread",
    "DeploymentPause",
    "EndedKey",
    "FEN_NANO",
    "FOLLOW_UP",
    "FailedJob",
    "FailedJobNotFound",
    "FailedJobs",
    "Finding",
    "GATHER_S",
    "Hold",
    "Host",
    "HostGrants",
    "HostLimits",
    "HostQueues",
    "JOB_NAMES",
    "JOB_STATES",
    "JOURNAL_SPACE",
    "JobName",
    "Journal",
    "JournalBusy",
    "JournalCorrupt",
    "JournalFailed",
    "JournalSpace",
    "KEYS",
    "KeyEnd",
    "LOSSY_ACCOUNTS",
    "LOSS_CAUSES",
    "Ledger",
    "LedgerWentBack",
    "Limit",
    "LiveKey",
    "Loss",
    "MISSING_PEPPERS",
    "MissingPeppers",
    "NO_ANSWER",
    "Need",
    "NotConfirmed",
    "OBJECT_OWNER",
    "ObjectOwner",
    "PAUSED_DEPLOYMENTS",
    "PER_UNIT",
    "Part",
    "PausedDeployments",
    "PublishedSnapshot",
    "QueueEntry",
    "REQUEST_ID_CHARS_MAX",
    "RateLookup",
    "Recorder",
    "RecorderAway",
    "RecorderClient",
    "RecorderLedger",
    "RefundTooMuch",
    "Release",
    "RequestLookup",
    "SETTLE_US",
    "SNAPSHOT",
    "Sale",
    "ScopedLimit",
    "SegmentCopy",
    "Settler",
    "Shortage",
    "SliceWait",
    "Slices",
    "Start",
    "State",
    "Transfer",
    "TransferNotAllowed",
    "TransferNotFound",
    "Transfers",
    "UpstreamObject",
    "UsageRecord",
    "Verdict",
    "WorkerConnection",
    "by_shard",
    "chain_all",
    "chain_batch",
    "check_confirmed",
    "check_undamaged",
    "copy_journal",
    "decode_record",
    "fen_of",
    "first_that_pays",
    "hold_rate",
    "inspect_journal",
    "is_nothing",
    "journal_end",
    "journal_locked",
    "journal_to_reset",
    "most",
    "put_journal",
    "put_journal_aside",
    "read_frames",
    "read_journal_id",
    "records_after",
    "share",
    "sync_folder",
    "usage_record",
    "verify",
    "why_lost",
]
