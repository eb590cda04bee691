"""Accounts, buckets, grants, usage records, postings. The only writer of balances."""

from tokenworks.charging.adjustments import Adjustments
from tokenworks.charging.admission import NOBODY, Admission
from tokenworks.charging.chains import chain_all, chain_some
from tokenworks.charging.charges import Charges
from tokenworks.charging.client import RecorderClient
from tokenworks.charging.errors import (
    AccountNotFound,
    AdjustmentNotAllowed,
    AdjustmentNotFound,
    ChargeNotFound,
    CreditLimitReached,
    FailedJobNotFound,
    JournalCorrupt,
    JournalFailed,
    LedgerWentBack,
    RecorderAway,
    RefundTooMuch,
    TransferNotAllowed,
    TransferNotFound,
)
from tokenworks.charging.failures import JOB_NAMES, JOB_STATES, FailedJobs
from tokenworks.charging.following import ID_CHARS_MAX as REQUEST_ID_CHARS_MAX
from tokenworks.charging.following import Following
from tokenworks.charging.grants import HostGrants
from tokenworks.charging.journal import Journal
from tokenworks.charging.ledger import Ledger
from tokenworks.charging.limits import HostLimits, Limit
from tokenworks.charging.model import (
    COUNT_NEED,
    FOLLOW_UP,
    LOSS_CAUSES,
    PER_UNIT,
    Adjustment,
    BalanceMove,
    BillLine,
    Bucket,
    Charge,
    FailedJob,
    JobName,
    Loss,
    Need,
    Part,
    RateLookup,
    Sale,
    Start,
    Transfer,
    UsageRecord,
    by_shard,
    most,
)
from tokenworks.charging.port import DatabaseThread, RecorderLedger
from tokenworks.charging.queues import SHED, WAITED, HostQueues, Queued
from tokenworks.charging.recorder import COMMIT_US, Recorder, WorkerConnection, inspect_journal
from tokenworks.charging.revenue import FEN_NANO, fen_of, share
from tokenworks.charging.settlement import SETTLE_US, Settler
from tokenworks.charging.slices import AccountSlices, Hold, Shortage, Slices
from tokenworks.charging.transfers import Transfers
from tokenworks.charging.verify import Finding, verify

__all__ = [
    "COMMIT_US",
    "COUNT_NEED",
    "FEN_NANO",
    "FOLLOW_UP",
    "JOB_NAMES",
    "JOB_STATES",
    "LOSS_CAUSES",
    "NOBODY",
    "PER_UNIT",
    "REQUEST_ID_CHARS_MAX",
    "SETTLE_US",
    "SHED",
    "WAITED",
    "AccountNotFound",
    "AccountSlices",
    "Adjustment",
    "AdjustmentNotAllowed",
    "AdjustmentNotFound",
    "Adjustments",
    "Admission",
    "BalanceMove",
    "BillLine",
    "Bucket",
    "Charge",
    "ChargeNotFound",
    "Charges",
    "CreditLimitReached",
    "DatabaseThread",
    "FailedJob",
    "FailedJobNotFound",
    "FailedJobs",
    "Finding",
    "Following",
    "Hold",
    "HostGrants",
    "HostLimits",
    "HostQueues",
    "JobName",
    "Journal",
    "JournalCorrupt",
    "JournalFailed",
    "Ledger",
    "LedgerWentBack",
    "Limit",
    "Loss",
    "Need",
    "Part",
    "Queued",
    "RateLookup",
    "Recorder",
    "RecorderAway",
    "RecorderClient",
    "RecorderLedger",
    "RefundTooMuch",
    "Sale",
    "Settler",
    "Shortage",
    "Slices",
    "Start",
    "Transfer",
    "TransferNotAllowed",
    "TransferNotFound",
    "Transfers",
    "UsageRecord",
    "WorkerConnection",
    "by_shard",
    "chain_all",
    "chain_some",
    "fen_of",
    "inspect_journal",
    "most",
    "share",
    "verify",
]
