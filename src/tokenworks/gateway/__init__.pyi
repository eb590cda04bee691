from tokenworks.gateway.counting import TokenizerClient, TokenizerCounts, TokenizerJob
from tokenworks.gateway.explained import explain_route
from tokenworks.gateway.keys import KeyCache
from tokenworks.gateway.plane import Plane
from tokenworks.gateway.protocol.codes import CODES
from tokenworks.gateway.protocol.compaction import COMPACT_PATH
from tokenworks.gateway.protocol.fields import warm
from tokenworks.gateway.request_log import file_of, find_lines
from tokenworks.gateway.seen import read_seen
from tokenworks.gateway.series import ADDED_US, OUTCOMES, SERIES_MAX, TIMES_MS, Series, read_series
from tokenworks.gateway.snapshot import Snapshot, snapshot_from_wire, snapshot_to_wire
from tokenworks.gateway.span_records import AttemptSpan, RequestSpans
from tokenworks.gateway.stats import (
    BUCKETS_MS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Heartbeat,
    Stats,
    WorkerStats,
    last_beat,
)
from tokenworks.gateway.tokenizer import ModelTokenizer
from tokenworks.gateway.tracing import Tracer, read_datagram

__all__ = [
    "ADDED_US",
    "BUCKETS_MS",
    "CODES",
    "COMPACT_PATH",
    "COUNTERS",
    "GAUGES",
    "HISTOGRAMS",
    "OUTCOMES",
    "SERIES_MAX",
    "TIMES_MS",
    "AttemptSpan",
    "Heartbeat",
    "KeyCache",
    "ModelTokenizer",
    "Plane",
    "RequestSpans",
    "Series",
    "Snapshot",
    "Stats",
    "TokenizerClient",
    "TokenizerCounts",
    "TokenizerJob",
    "Tracer",
    "WorkerStats",
    "explain_route",
    "file_of",
    "find_lines",
    "last_beat",
    "read_datagram",
    "read_seen",
    "read_series",
    "snapshot_from_wire",
    "snapshot_to_wire",
    "warm",
]
