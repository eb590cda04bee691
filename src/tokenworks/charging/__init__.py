"""Accounts, buckets, grants, usage records, postings. The only writer of balances."""

from tokenworks.charging.admission import Admission
from tokenworks.charging.client import RecorderClient
from tokenworks.charging.errors import (
    AccountNotFound,
    JournalCorrupt,
    JournalFailed,
    LedgerWentBack,
    RecorderAway,
)
from tokenworks.charging.grants import HostGrants
from tokenworks.charging.journal import Journal
from tokenworks.charging.ledger import Ledger
from tokenworks.charging.limits import HostLimits, Limit
from tokenworks.charging.model import FOLLOW_UP, Bucket, Need, Part, RateLookup, Start, UsageRecord
from tokenworks.charging.port import DatabaseThread, RecorderLedger
from tokenworks.charging.recorder import Recorder, WorkerConnection, inspect_journal
from tokenworks.charging.settlement import Settler
from tokenworks.charging.slices import AccountSlices, Hold, Slices
from tokenworks.charging.verify import Finding, verify

__all__ = [
    "FOLLOW_UP",
    "AccountNotFound",
    "AccountSlices",
    "Admission",
    "Bucket",
    "DatabaseThread",
    "Finding",
    "Hold",
    "HostGrants",
    "HostLimits",
    "Journal",
    "JournalCorrupt",
    "JournalFailed",
    "Ledger",
    "LedgerWentBack",
    "Limit",
    "Need",
    "Part",
    "RateLookup",
    "Recorder",
    "RecorderAway",
    "RecorderClient",
    "RecorderLedger",
    "Settler",
    "Slices",
    "Start",
    "UsageRecord",
    "WorkerConnection",
    "inspect_journal",
    "verify",
]
