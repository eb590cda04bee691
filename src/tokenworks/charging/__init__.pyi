from tokenworks.charging.errors import (
    AccountNotFound,
    AdjustmentNotAllowed,
    AdjustmentNotFound,
    ChargeNotFound,
    CreditLimitReached,
    FailedJobNotFound,
    JournalBusy,
    JournalCorrupt,
    JournalFailed,
    LedgerWentBack,
    RecorderAway,
    RefundTooMuch,
    TransferNotAllowed,
    TransferNotFound,
)
from tokenworks.charging.host.grants import HostGrants
from tokenworks.charging.host.journal import Journal, read_frames, sync_folder
from tokenworks.charging.host.journal_copy import (
    SegmentCopy,
    copy_journal,
    held,
    journal_end,
    put_journal,
    put_journal_aside,
)
from tokenworks.charging.host.limits import HostLimits, Limit
from tokenworks.charging.host.port import GATHER_S, DatabaseThread, RecorderLedger
from tokenworks.charging.host.queues import SHED, WAITED, HostQueues, Queued
from tokenworks.charging.host.recorder import (
    COMMIT_US,
    Recorder,
    WorkerConnection,
    inspect_journal,
    read_journal_id,
    records_after,
)
from tokenworks.charging.host.settlement import SETTLE_US, Settler
from tokenworks.charging.ledger.chains import chain_all, chain_some
from tokenworks.charging.ledger.failures import JOB_NAMES, JOB_STATES, FailedJobs
from tokenworks.charging.ledger.following import ID_CHARS_MAX as REQUEST_ID_CHARS_MAX
from tokenworks.charging.ledger.following import Following
from tokenworks.charging.ledger.model import (
    BalanceMove,
    Bucket,
    FailedJob,
    Host,
    JobName,
    Release,
    Transfer,
    by_shard,
)
from tokenworks.charging.ledger.service import Ledger
from tokenworks.charging.ledger.transfers import Transfers
from tokenworks.charging.ledger.verify import Finding, verify
from tokenworks.charging.lost_journal import (
    NotConfirmed,
    check_confirmed,
    check_undamaged,
    journal_to_reset,
    why_lost,
)
from tokenworks.charging.model import (
    COUNT_NEED,
    FOLLOW_UP,
    LOSS_CAUSES,
    PER_UNIT,
    Loss,
    Need,
    Part,
    RateLookup,
    Start,
    UsageRecord,
    most,
)
from tokenworks.charging.money.adjustments import Adjustments
from tokenworks.charging.money.charges import Charges
from tokenworks.charging.money.model import Adjustment, BillLine, Charge, Sale
from tokenworks.charging.money.revenue import FEN_NANO, fen_of, share
from tokenworks.charging.prices import first_that_pays
from tokenworks.charging.worker.admission import NOBODY, Admission
from tokenworks.charging.worker.client import RecorderClient
from tokenworks.charging.worker.slices import AccountSlices, Hold, Shortage, Slices

__all__ = [
    "COMMIT_US",
    "COUNT_NEED",
    "FEN_NANO",
    "FOLLOW_UP",
    "GATHER_S",
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
    "Host",
    "HostGrants",
    "HostLimits",
    "HostQueues",
    "JobName",
    "Journal",
    "JournalBusy",
    "JournalCorrupt",
    "JournalFailed",
    "Ledger",
    "LedgerWentBack",
    "Limit",
    "Loss",
    "Need",
    "NotConfirmed",
    "Part",
    "Queued",
    "RateLookup",
    "Recorder",
    "RecorderAway",
    "RecorderClient",
    "RecorderLedger",
    "RefundTooMuch",
    "Release",
    "Sale",
    "SegmentCopy",
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
    "check_confirmed",
    "check_undamaged",
    "copy_journal",
    "fen_of",
    "first_that_pays",
    "held",
    "inspect_journal",
    "journal_end",
    "journal_to_reset",
    "most",
    "put_journal",
    "put_journal_aside",
    "read_frames",
    "read_journal_id",
    "records_after",
    "share",
    "sync_folder",
    "verify",
    "why_lost",
]
