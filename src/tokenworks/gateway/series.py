"""Outcomes, tokens and times of requests by model and deployment, in a file beside a worker's counters. A reader sums the files of
all workers.

The file outlives its worker: the next worker of its number continues from it, so that no sum becomes less. Models and deployments
are those of the catalogue, never names that a client wrote. The first `SERIES_MAX` pairs by name have a series each and the others
share one, so all workers agree which pairs have one.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.catalog import TOKEN_CLASSES, Counts
from tokenworks.charging import UsageRecord
from tokenworks.gateway.stats import Stats
from tokenworks.kernel import Histogram

# Pairs of model and deployment that have a series of their own.
SERIES_MAX: Final = 200
OTHER: Final = "other"
NONE: Final = "none"
OUTCOMES: Final = ("complete", "interrupted", "refused", "left")
COMPLETE, INTERRUPTED, REFUSED, LEFT = range(len(OUTCOMES))
PROTOCOLS: Final = ("chat", "completions", "embeddings", "messages", "responses")
TIMES_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000)
ADDED_US: Final = (
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    10_000_000,
)
_FORM: Final = 1
_FRESH: Final = TOKEN_CLASSES.index("fresh_input")
_OUTPUT: Final = TOKEN_CLASSES.index("output")

Pair = tuple[str, str]
"""(model, deployment)"""
PairRow = tuple[list[int], int, int, list[int], list[int], list[int]]
"""A pair's sums in a file: outcomes, attempts, failed attempts, tokens, first byte, whole request (`Histogram.wire`)."""
_decoder: Final = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, str, PairRow]], dict[str, list[int]]])


class PairSeries:
    """Sums of one pair. `outcomes` in the order of `OUTCOMES`, `tokens` in that of `TOKEN_CLASSES`; times in milliseconds."""

    __slots__ = (
        "attempts", "before", "failed", "first_byte", "first_byte_ms", "latency_ms", "outcomes", "tokens", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes = [0] * len(OUTCOMES)
        self.attempts = 0
        self.failed = 0
        self.tokens = [0] * len(TOKEN_CLASSES)
        self.before = [0] * len(TOKEN_CLASSES)  # the part of `tokens` that earlier workers counted
        self.first_byte = Histogram(TIMES_MS)
        self.whole = Histogram(TIMES_MS)
        # Times since the last second. To put all of a second into the histograms together costs less.
        self.first_byte_ms: list[int] = []
        self.latency_ms: list[int] = []

    def recorded(self, record: UsageRecord, outcome: int) -> None:
        """Count a record that was written. `outcome`: `COMPLETE` or `INTERRUPTED`."""
        self.outcomes[outcome] += 1
        self.attempts += 1
        self.latency_ms.append(record.latency_ms)
        if record.first_byte_ms is not None:
            self.first_byte_ms.append(record.first_byte_ms)
        tokens = self.tokens
        fresh, cached, written, audio, output, reasoning, spoken, hour = record.c
        tokens[_FRESH] += fresh
        tokens[_OUTPUT] += output
        if cached or written or audio or reasoning or spoken or hour:
            for at, count in enumerate(record.c):
                tokens[at] += 0 if at in {_FRESH, _OUTPUT} else count

    def settle(self) -> None:
        """Put the times of the last second into the histograms."""
        if self.latency_ms:
            self.first_byte.observe_all(self.first_byte_ms)
            self.whole.observe_all(self.latency_ms)
            self.first_byte_ms.clear()
            self.latency_ms.clear()

    def wire(self) -> PairRow:
        return (
            self.outcomes,
            self.attempts,
            self.failed,
            self.tokens,
            self.first_byte.wire(),
            self.whole.wire(),
        )

    def add(self, row: PairRow) -> None:
        outcomes, attempts, failed, tokens, first_byte, whole = row
        for at, count in enumerate(outcomes):
            self.outcomes[at] += count
        self.attempts += attempts
        self.failed += failed
        for at, count in enumerate(tokens):
            self.tokens[at] += count
            self.before[at] += count
        self.first_byte.add(first_byte)
        self.whole.add(whole)


class Series:
    """All pairs, and by protocol the time that this gateway added to a request, in microseconds."""

    def __init__(self) -> None:
        self.pairs: dict[Pair, PairSeries] = {}
        self.added = {protocol: Histogram(ADDED_US) for protocol in PROTOCOLS}
        self.added_us: dict[str, list[int]] = {protocol: [] for protocol in PROTOCOLS}
        self._kept = b""

    def known(self, pairs: Iterable[Pair]) -> None:
        """The pairs of a snapshot: each of the first by name has a series from now on, also before its first request."""
        for pair in sorted(set(pairs)):
            self.of(*pair)

    def of(self, model: str, deployment: str) -> PairSeries:
        """The series of a pair, or the one that all further pairs share."""
        found = self.pairs.get((model, deployment))
        if found is None:
            pair = (model, deployment) if len(self.pairs) < SERIES_MAX else (OTHER, OTHER)
            found = self.pairs.setdefault(pair, PairSeries())
        return found

    def settle(self, stats: Stats | None = None) -> None:
        """Once a second: add the times and tokens since the last call to the sums and to the worker's own counters."""
        counted = [0] * len(TOKEN_CLASSES)
        for row in self.pairs.values():
            if stats is not None:
                stats.first_byte_ms += row.first_byte_ms
                stats.latency_ms += row.latency_ms
                counted = [n + now - was for n, now, was in zip(counted, row.tokens, row.before, strict=True)]
            row.settle()
        if stats is not None:
            counts = Counts(*counted)
            stats.c["tokens_input"], stats.c["tokens_output"] = counts.input_tokens, counts.output_tokens
        for protocol, values in self.added_us.items():
            if values:
                self.added[protocol].observe_all(values)
                values.clear()

    def failed(self, model: str, deployment: str) -> None:
        """Count an attempt that gave nothing."""
        row = self.of(model, deployment)
        row.attempts += 1
        row.failed += 1

    def wire(self) -> bytes:
        pairs = [(model, deployment, row.wire()) for (model, deployment), row in self.pairs.items()]
        added = {protocol: histogram.wire() for protocol, histogram in self.added.items()}
        return msgspec.msgpack.encode((_FORM, pairs, added))

    def add(self, content: bytes) -> None:
        """Add another worker's file. A file of another form is ignored."""
        with contextlib.suppress(msgspec.DecodeError, ValueError, TypeError, AssertionError):
            form, pairs, added = _decoder.decode(content)
            if form != _FORM:
                return
            for model, deployment, row in pairs:
                self.pairs.setdefault((model, deployment), PairSeries()).add(row)
            for protocol, times in added.items():
                self.added[protocol].add(times)

    def keep(self, path: Path) -> None:
        """Write the file as a whole or not at all, if something has changed."""
        self.settle()
        content = self.wire()
        if content == self._kept:
            return
        scratch = path.with_suffix(".series-new")
        with contextlib.suppress(OSError):  # a full disk: the next second tries again
            scratch.write_bytes(content)
            scratch.replace(path)
            self._kept = content


def read_series(paths: Iterable[Path]) -> Series:
    """The sums over the files of several workers."""
    found = Series()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(path.read_bytes())
    return found
