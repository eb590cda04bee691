"""The data plane: relay, metering, holds."""

from tokenworks.gateway.codes import CODES
from tokenworks.gateway.counting import Counted, Job, TokenizerClient
from tokenworks.gateway.fields import warm
from tokenworks.gateway.gateway import Gateway
from tokenworks.gateway.keys import KeyCache
from tokenworks.gateway.seen import read_seen
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import Snapshot, snapshot_from_wire, snapshot_to_wire
from tokenworks.gateway.stats import (
    BUCKETS_MS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Heartbeat,
    Reading,
    Stats,
    last_beat,
)
from tokenworks.gateway.tokenizer import ModelTokenizer

__all__ = [
    "BUCKETS_MS",
    "CODES",
    "COUNTERS",
    "GAUGES",
    "HISTOGRAMS",
    "ClientConnection",
    "Counted",
    "Gateway",
    "Heartbeat",
    "Job",
    "KeyCache",
    "ModelTokenizer",
    "Reading",
    "Snapshot",
    "Stats",
    "TokenizerClient",
    "last_beat",
    "read_seen",
    "snapshot_from_wire",
    "snapshot_to_wire",
    "warm",
]
