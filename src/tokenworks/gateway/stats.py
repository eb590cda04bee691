"""A worker's counters in a shared file, which another process can read at any time, even after the worker's death."""

import mmap
import struct
import time
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Final

# Patterns of requests by which a client may get tokens for free. Most of these clients are honest, so only a rise is a sign. Counted
# are: requests with another name for the maximum; answers with hidden output; answers with several tool calls; streams whose connection
# is reset after their end; clients that leave near the end, before an unstreamed answer, in the content or before it; requests with
# media, and others, that the balance does not cover; requests for several choices.
FREE_RIDERS: Final = (
    "maximum_aliases",
    "hidden_output",
    "tool_calls",
    "left_at_finish",
    "left_near_the_end",
    "left_unstreamed",
    "left_in_content",
    "left_before_content",
    "media_refused",
    "over_balance",
    "many_choices",
)
COUNTERS: Final = (
    "connections_open",
    "connections",
    "requests",
    "requests_open",
    "chunks",
    "refused_400",
    "refused_401",
    "refused_402",
    "refused_403",
    "refused_404",
    "refused_408",
    "refused_413",
    "refused_429",
    "refused_431",
    "refused_other",
    "refused_502",
    "refused_503",
    "refused_504",
    "attempts",
    "attempts_failed",
    "complete",
    "interrupted",
    "tokens_input",
    "tokens_output",
    "upstream_open",
    "upstream_idle",
    "unacknowledged",
    "recorder_ready",
    "snapshot_age_ms",
    "deployments",
    "tokenizer_waiting",
    "tokenizer_jobs",
    "tokenizer_timeouts",
    "tokenizer_refused",
    "abandoned",
    "drained",
    *(f"free_rider_{name}" for name in FREE_RIDERS),
    "cut_at_maximum",
    "beyond_maximum_tokens",
    "memory_used_bytes",
    "memory_peak_bytes",
    "memory_refused",
    "slow_readers_cut",
    "loop_lag_second_ms",
    "loop_lag_max_ms",
    "loop_busy_second_ms",
    "loop_busy_max_ms",
    "certificate_expires_s",
    "certificate_not_loaded",
    "request_lines_left_out",
    "idempotency_repeats",
    "cache_hits",
    "cache_misses",
    "answers_stored",
    "answers_stored_bytes",
    "answers_replayed_bytes",
    "foreign_keys_unknown",
    "foreign_keys_limited",
    "content_logged",
    "content_not_logged",
    "traces_sent",
    "traces_dropped",
)
# Counters that are reported as present values; all others only grow.
GAUGES: Final = frozenset(
    {
        "connections_open",
        "requests_open",
        "upstream_open",
        "upstream_idle",
        "unacknowledged",
        "recorder_ready",
        "snapshot_age_ms",
        "deployments",
        "tokenizer_waiting",
        "memory_used_bytes",
        "memory_peak_bytes",
        "loop_lag_second_ms",
        "loop_lag_max_ms",
        "loop_busy_second_ms",
        "loop_busy_max_ms",
        "certificate_expires_s",
        "certificate_not_loaded",
    }
)
BUCKETS_MS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000)
HISTOGRAMS: Final = ("first_byte_ms", "latency_ms", "loop_lag_ms")
_PER_HISTOGRAM: Final = len(BUCKETS_MS) + 3  # buckets, above, count, sum
_VALUES: Final = 3 + len(COUNTERS) + len(HISTOGRAMS) * _PER_HISTOGRAM  # heartbeat, pid, alive first
_FORMAT: Final = struct.Struct(f"<{_VALUES}q")
_HEARTBEAT: Final = struct.Struct("<2q")


class Stats:
    """Plain integers in memory, written to the file once a second with the heartbeat (monotonic milliseconds)."""

    def __init__(self, path: Path, pid: int) -> None:
        self.c = dict.fromkeys(COUNTERS, 0)
        self.h = {name: [0] * _PER_HISTOGRAM for name in HISTOGRAMS}
        # Observations since the last heartbeat.
        self.first_byte_ms: list[int] = []
        self.latency_ms: list[int] = []
        self.loop_lag_ms: list[int] = []
        self._busy_ms = 0
        self._pid = pid
        self._map = _mapped(path, _FORMAT.size)

    def _observe_all(self) -> None:
        self.c["loop_lag_second_ms"] = max(self.loop_lag_ms, default=0)
        self.c["loop_busy_second_ms"], self._busy_ms = self._busy_ms, 0
        self.c["loop_busy_max_ms"] = max(self.c["loop_busy_max_ms"], self.c["loop_busy_second_ms"])
        for name, values in (
            ("first_byte_ms", self.first_byte_ms),
            ("latency_ms", self.latency_ms),
            ("loop_lag_ms", self.loop_lag_ms),
        ):
            row = self.h[name]
            for value_ms, times in Counter(values).items():
                row[bisect_left(BUCKETS_MS, value_ms)] += times
                row[-1] += value_ms * times
            row[-2] += len(values)
            values.clear()

    def lagged(self, lag_ms: int, busy_ms: int) -> None:
        """A timer of the loop came `lag_ms` late, of which the loop's thread computed for `busy_ms`. In the rest of the lag another process
        of the host had the core.
        """
        self.loop_lag_ms.append(lag_ms)
        self.c["loop_lag_max_ms"] = max(self.c["loop_lag_max_ms"], lag_ms)
        self._busy_ms = max(self._busy_ms, min(lag_ms, busy_ms))

    def beat(self) -> None:
        self._observe_all()
        values = [int(time.monotonic() * 1000), self._pid, 1, *self.c.values()]
        for row in self.h.values():
            values += row
        _FORMAT.pack_into(self._map, 0, *values)


class Heartbeat:
    """The heartbeat alone, in monotonic milliseconds, for a process without counters."""

    def __init__(self, path: Path, pid: int) -> None:
        self._map = _mapped(path, _HEARTBEAT.size)
        self._pid = pid

    def beat(self) -> None:
        _HEARTBEAT.pack_into(self._map, 0, int(time.monotonic() * 1000), self._pid)


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A new file of zeros at this path. A process that still writes to the old file keeps it, without a name."""
    half = path.with_suffix(".half")
    with half.open("w+b") as file:
        file.truncate(size)
        mapped = mmap.mmap(file.fileno(), size)
    half.replace(path)
    return mapped


class WorkerStats:
    """The content of a worker's file. Raises `ValueError` if another release, with other counters, wrote it."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        if len(data) != _FORMAT.size:
            raise ValueError(f"{path} has {len(data)} bytes instead of {_FORMAT.size}")
        values = _FORMAT.unpack(data)
        self.heartbeat_ms, self.pid = values[0], values[1]
        self.counters = dict(zip(COUNTERS, values[3:], strict=False))
        at = 3 + len(COUNTERS)
        self.histograms: dict[str, tuple[list[int], int, int]] = {}
        for name in HISTOGRAMS:
            row = values[at : at + _PER_HISTOGRAM]
            self.histograms[name] = (list(row[:-2]), row[-2], row[-1])
            at += _PER_HISTOGRAM


def last_beat(path: Path) -> tuple[int, int]:
    """(monotonic milliseconds, process id) of the last heartbeat in a file; zeros if there is none yet."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEARTBEAT.size)
    except FileNotFoundError:
        return 0, 0
    if len(data) != _HEARTBEAT.size:
        return 0, 0
    at_ms, pid = _HEARTBEAT.unpack(data)
    return at_ms, pid
