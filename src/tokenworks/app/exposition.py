"""Metrics of a host beside the counters of its workers: sums by model and deployment, the recorder's report, settings."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tokenworks.app.settings import Settings
from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.gateway import OUTCOMES, SERIES_MAX, Series, read_series
from tokenworks.kernel import Histogram

# Settings that other metrics are compared with. Each is exported under its own name.
LIMITS: Final = (
    "clock_skew_max_s",
    "connections_max",
    "control_connections_max",
    "journal_reserve_bytes",
    "key_max_stale_s",
    "memory_bytes_max",
    "operator_loss_budget_tokens",
    "queue_max",
    "requests_max",
    "tokenize_queue_max",
    "unsettled_records_max",
    "workers",
)
# Values of the recorder's report that only grow while the recorder runs.
RECORDER_COUNTERS: Final = frozenset(
    {
        "archive_failures",
        "archive_files",
        "journal_commits",
        "journal_commit_seconds",
        "requests_queue_timed_out",
        "requests_shed",
        "settle_batches",
        "settle_cpu_seconds",
        "settled_records",
    }
)
_PAIR: Final = ("model", "deployment")
_MS_PER_S: Final = 1_000
_US_PER_S: Final = 1_000_000


def limits(settings: Settings) -> Iterator[Metric]:
    """The settings of `LIMITS`."""
    for name in LIMITS:
        yield GaugeMetricFamily(f"tokenworks_{name}", f"the setting {name}", value=getattr(settings, name))
    yield GaugeMetricFamily(
        "tokenworks_series_max", "pairs of model and deployment that are told apart", value=SERIES_MAX
    )


def notices(rows: Iterable[tuple[str, int, int]]) -> Iterator[Metric]:
    """Deliveries of notices by channel, from the host that runs the jobs: (channel, age of the oldest that is due, failed in a day)."""
    oldest = GaugeMetricFamily(
        "tokenworks_notices_oldest_seconds",
        "since the oldest notice that is due was made",
        labels=["channel"],
    )
    failed = GaugeMetricFamily(
        "tokenworks_notices_failed", "notices that were given up in the last day", labels=["channel"]
    )
    for channel, seconds, count in rows:
        oldest.add_metric([channel], seconds)
        failed.add_metric([channel], count)
    yield from (oldest, failed)


def by_model(run_dir: Path) -> Iterator[Metric]:
    """Sums over all workers of this host, ended ones too: no sum ever falls."""
    series = read_series(sorted(run_dir.glob("worker-*.series")))
    if not series.pairs:
        return
    yield from _counts(series)
    for name, what, histograms in (
        (
            "model_first_byte_seconds",
            "from a request's arrival to its deployment's first byte",
            [(pair, row.first_byte) for pair, row in series.pairs.items()],
        ),
        (
            "model_request_seconds",
            "from a request's arrival to its record",
            [(pair, row.whole) for pair, row in series.pairs.items()],
        ),
    ):
        yield histogram_family(name, what, _PAIR, histograms, _MS_PER_S)
    added = [((protocol,), seen) for protocol, seen in series.added.items() if seen.count]
    yield histogram_family(
        "gateway_added_seconds",
        "what this gateway added to requests (of a sample): before they were sent, and from their upstream's last byte to the answer's end",
        ("protocol",),
        added,
        _US_PER_S,
    )


def _counts(series: Series) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "tokenworks_model_requests", "requests that ended so", labels=[*_PAIR, "outcome"]
    )
    attempts = CounterMetricFamily(
        "tokenworks_model_attempts", "requests that were sent to the deployment", labels=_PAIR
    )
    failed = CounterMetricFamily(
        "tokenworks_model_attempts_failed", "of them those that gave nothing", labels=_PAIR
    )
    tokens = CounterMetricFamily(
        "tokenworks_model_tokens", "tokens that records count, by class", labels=[*_PAIR, "class"]
    )
    for pair, row in sorted(series.pairs.items()):
        for outcome, count in zip(OUTCOMES, row.outcomes, strict=True):
            requests.add_metric([*pair, outcome], count)
        attempts.add_metric(pair, row.attempts)
        failed.add_metric(pair, row.failed)
        for name, count in zip(TOKEN_CLASSES, row.tokens, strict=True):
            tokens.add_metric([*pair, name], count)
    yield from (requests, attempts, failed, tokens)


def recorder(
    values: Mapping[str, float], histograms: Mapping[str, tuple[int, list[int], list[int]]]
) -> Iterator[Metric]:
    """What the recorder reports: counters, values of now, and its histograms: name -> (units a second, bounds, counts with their total)."""
    for name, value in values.items():
        prefix = "" if name.startswith("archive_") else "recorder_"
        text = f"{name.replace('_', ' ')}, as the recorder reports it"
        if name in RECORDER_COUNTERS:
            yield CounterMetricFamily(f"tokenworks_{prefix}{name}", text, value=value)
        else:
            yield GaugeMetricFamily(f"tokenworks_{prefix}{name}", text, value=value)
    for name, (per_s, bounds, row) in histograms.items():
        histogram = Histogram(bounds)
        histogram.add(row)
        yield histogram_family(f"recorder_{name}", name.replace("_", " "), (), [((), histogram)], per_s)


def histogram_family(
    name: str,
    what: str,
    labels: tuple[str, ...],
    seen: Iterable[tuple[tuple[str, ...], Histogram]],
    per_s: int,
) -> HistogramMetricFamily:
    """`seen`: (values of the labels, histogram) of each series. `per_s`: how many of the histogram's units are a second."""
    family = HistogramMetricFamily(f"tokenworks_{name}", what, labels=labels)
    for values, histogram in sorted(seen, key=lambda series: series[0]):
        cumulative, buckets = 0, []
        for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
            cumulative += count
            buckets.append((str(bound / per_s), cumulative))
        family.add_metric(list(values), [*buckets, ("+Inf", histogram.count)], histogram.total / per_s)
    return family
