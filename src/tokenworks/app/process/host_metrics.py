"""The admin port of a host: metrics of all its processes, and whether the host is ready."""

import contextlib
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tokenworks import __version__, compiled
from tokenworks.app import exposition
from tokenworks.app.database.schema import SCHEMA
from tokenworks.app.process.renewing import certificate_words
from tokenworks.app.process.report_file import read_report
from tokenworks.app.process.served import read_reload
from tokenworks.app.process.span_exporter import SpanExporter
from tokenworks.app.settings import Settings
from tokenworks.gateway import BUCKETS_MS, GAUGES, HISTOGRAMS, WorkerStats
from tokenworks.kernel import SystemClock

STALE_S: Final = 5.0
LACKS_PEPPER: Final = "a pepper of the works is not in secrets_dir here: `tokenworks pepper list`"


class HostMetrics:
    """Reads the workers' files and the recorder's report at each request. `may_change_history`: whether the database role of this
    process could change history.
    """

    def __init__(
        self, settings: Settings, exporter: SpanExporter | None = None, *, may_change_history: bool = False
    ) -> None:
        self._settings = settings
        self._exporter = exporter
        self._may_change_history = may_change_history

    def readings(self) -> list[tuple[str, WorkerStats]]:
        """(worker, its counters and histograms) of each worker's file."""
        readings = []
        for path in sorted(self._settings.run_dir.glob("worker-*.stats")):
            # A file of another release may have another form.
            with contextlib.suppress(OSError, ValueError, struct.error):
                readings.append((path.stem.removeprefix("worker-"), WorkerStats(path)))
        return readings

    def failed_jobs(self) -> list[tuple[str, str, int]]:
        """(job, state, count), as this host's jobs counted them last."""
        with contextlib.suppress(OSError, ValueError):
            return msgspec.json.decode(self._written("jobs.json"), type=list[tuple[str, str, int]])
        return []

    def notices(self) -> list[tuple[str, int, int]]:
        """(channel, age of the oldest delivery that is due, failed in a day), as this host's jobs counted them last."""
        with contextlib.suppress(OSError, ValueError):
            return msgspec.json.decode(self._written("notices.json"), type=list[tuple[str, int, int]])
        return []

    def _written(self, name: str) -> bytes:
        return (self._settings.run_dir / name).read_bytes()

    def not_ready(self) -> list[str]:
        """Why the host is not ready; empty where it is."""
        reasons = []
        if self._settings.leaving.exists():
            reasons.append("draining")
        report = read_report(self._settings.run_dir)
        if report is None or report.age_s > STALE_S:
            reasons.append("the recorder does not report")
        elif not report.values["database_ok"]:
            reasons.append("the database does not answer")
        elif not report.values["settling_ok"]:
            reasons.append("settlement fails")
        elif report.values["journal_full"]:
            reasons.append("the journal's disk is full")
        elif report.values.get("peppers_lacking"):
            reasons.append(LACKS_PEPPER)
        elif report.values["clock_off"]:
            reasons.append(f"the host's clock is off by {report.values['clock_skew_seconds']:.1f} s")
        now_ms = time.monotonic() * 1000
        alive = [reading for _, reading in self.readings() if now_ms - reading.heartbeat_ms < STALE_S * 1000]
        if not any(reading.counters["recorder_ready"] for reading in alive):
            reasons.append("no worker is ready")
        return reasons

    def certificate_words(self) -> str | None:
        readings = [reading.counters for _, reading in self.readings()]
        expires_s = min(
            (c["certificate_expires_s"] for c in readings if c["certificate_expires_s"]), default=None
        )
        if expires_s is None:
            return None
        failed = any(c["certificate_not_loaded"] for c in readings)
        return certificate_words(
            SystemClock().now(),
            datetime.fromtimestamp(expires_s, UTC),
            "the log says why" if failed else None,
        )

    def collect(self) -> Iterator[Metric]:
        """Every metric of the host, as a collector of `prometheus_client`."""
        yield from _of_workers(self.readings())
        yield from _release()
        reload = read_reload(self._settings.run_dir)
        yield GaugeMetricFamily(
            "tokenworks_reload_failed",
            "1: the last reload was refused, and the server runs as before",
            value=reload.state == "failed",
        )
        yield GaugeMetricFamily(
            "tokenworks_retired_processes",
            "processes of before the last reloads that still finish what they serve",
            value=reload.retired,
        )
        yield GaugeMetricFamily(
            "tokenworks_single_role",
            "1: the database's role could change history",
            value=self._may_change_history,
        )
        failed = GaugeMetricFamily(
            "tokenworks_failed_jobs",
            "cycles, credits, refunds, bills, starts and collections whose job raised: tried again, or in quarantine until they are released",
            labels=["job", "state"],
        )
        for job, state, count in self.failed_jobs():
            failed.add_metric([job, state], count)
        yield failed
        yield from exposition.notices(self.notices())
        yield from self._of_recorder()
        if self._exporter is not None:
            yield CounterMetricFamily(
                "tokenworks_spans_exported", "spans that the collector took", self._exporter.sent
            )
            yield CounterMetricFamily(
                "tokenworks_spans_dropped",
                "spans that the collector refused, or that did not fit while it was away",
                self._exporter.dropped,
            )
        yield from exposition.by_model(self._settings.run_dir)
        yield from exposition.limits(self._settings)

    def _of_recorder(self) -> Iterator[Metric]:
        report = read_report(self._settings.run_dir)
        if report is None:
            return
        if report.age_s > STALE_S:
            # The values of a silent recorder may be wrong by now: export its age, and that nothing is known to answer.
            values = {"age_seconds": report.age_s}
            values |= {name: 0.0 for name in ("database_ok", "settling_ok") if name in report.values}
            yield from exposition.recorder(values, {})
            return
        lost = CounterMetricFamily(
            "tokenworks_loss_tokens",
            "tokens that the operator bore, as they were settled by this host",
            labels=["cause"],
        )
        for cause, tokens in report.loss_tokens.items():
            lost.add_metric([cause], tokens)
        yield lost
        yield from exposition.recorder(report.values, report.histograms)


def _of_workers(readings: list[tuple[str, WorkerStats]]) -> Iterator[Metric]:
    if not readings:
        return
    for name in readings[0][1].counters:
        kind = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
        family = kind(f"tokenworks_{name}", f"{name.replace('_', ' ')} of a worker", labels=["worker"])
        for worker, reading in readings:
            family.add_metric([worker], reading.counters[name])
        yield family
    for name in HISTOGRAMS:
        histogram = HistogramMetricFamily(
            f"tokenworks_{name}", f"{name.replace('_', ' ')} of requests", labels=["worker"]
        )
        for worker, reading in readings:
            counts, count, total = reading.histograms[name]
            cumulative, buckets = 0, []
            for bound, at in zip(BUCKETS_MS, counts, strict=False):
                cumulative += at
                buckets.append((str(bound), cumulative))
            histogram.add_metric([worker], [*buckets, ("+Inf", count)], total)
        yield histogram


def _release() -> Iterator[Metric]:
    """The release that this host serves with, and the build of the release."""
    release = GaugeMetricFamily(
        "tokenworks_release", "1: the release and the schema that this host serves with", labels=["release", "schema"]
    )  # fmt: skip
    release.add_metric([__version__, SCHEMA], 1)
    yield release
    build = GaugeMetricFamily(
        "tokenworks_build",
        "1: whether the data plane of this host is compiled or interpreted",
        labels=["build"],
    )
    build.add_metric([compiled.state().word], 1)
    yield build


def make_admin_app(metrics: HostMetrics) -> FastAPI:
    app = FastAPI(
        title="Tokenworks admin", version=__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    registry = CollectorRegistry()
    registry.register(metrics)

    @app.get("/healthz")
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    def readyz() -> PlainTextResponse:
        reasons, words = metrics.not_ready(), metrics.certificate_words()
        text = ("not ready: " + ", ".join(reasons) if reasons else "ok") + (f"; {words}" if words else "")
        return PlainTextResponse(f"{text}\n", 503 if reasons else 200)

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
