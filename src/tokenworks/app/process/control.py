"""The control plane: an ordinary FastAPI app behind the gateway, the admin port, and the host's scheduled jobs."""

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import ConnectionPool, PoolTimeout

from tokenworks import __version__
from tokenworks.app import exposition
from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database.connections import anchor, connect, database, ensure_usage_months
from tokenworks.app.database.schema import SCHEMA
from tokenworks.app.database.waiting import ANSWER_S, KEEPALIVES, BoundedConnection, check_soon
from tokenworks.app.logs import configure_logs, say_left_out
from tokenworks.app.ports.messages import code_sender
from tokenworks.app.ports.notify import deliver, time_out
from tokenworks.app.process.host_secrets import ProcessSecrets
from tokenworks.app.process.renewing import certificate_words
from tokenworks.app.process.served import read_reload
from tokenworks.app.settings import Settings
from tokenworks.billing import TestProvider
from tokenworks.charging import JOB_NAMES, JOB_STATES, FailedJobs, chain_some
from tokenworks.console import Rooms, make_api
from tokenworks.gateway import BUCKETS_MS, GAUGES, HISTOGRAMS, Heartbeat, Reading
from tokenworks.kernel import AnchoredClock, SystemClock, Unavailable
from tokenworks.trust import Peppers, VaultSecrets, settle_issuing

log = structlog.get_logger()

JOBS_S: Final = 20.0
SECRETS_S: Final = 1.0
LEAVE_S: Final = 0.25
BEAT_S: Final = 0.25
_JOBS_LOCK: Final = 7461002
STALE_S: Final = 5.0
LACKS_PEPPER: Final = "a pepper of the works is not in secrets_dir here: `tokenworks pepper list`"
CONNECTIONS_MAX: Final = 10
CONNECTION_WAIT_S: Final = 3.0
# Revenue follows usage this often; a bill run brings it up to date, too.
RECOGNISE_S: Final = 3600.0
CHAIN_S: Final = 86_400.0
# So many batches of a bill run a turn, that other jobs have theirs.
BILL_BATCHES: Final = 20


def make_control_app(url: Callable[[], str], settings: Settings, secrets: ProcessSecrets) -> FastAPI:
    """What people and other systems ask over the public port, outside /v1."""
    clock = AnchoredClock(SystemClock(settings.clock_shift_s))
    pool = ConnectionPool(
        url(),
        min_size=1,
        max_size=CONNECTIONS_MAX,
        open=False,
        timeout=CONNECTION_WAIT_S,
        connection_class=BoundedConnection,
        kwargs={
            "autocommit": True,
            "connect_timeout": int(CONNECTION_WAIT_S),
            # A statement that its request gave up is not left running.
            "options": f"-c statement_timeout={int(ANSWER_S * 1000)}",
            **KEEPALIVES,
        },
        check=check_soon,
    )

    @contextlib.contextmanager
    def open_rooms() -> Iterator[Rooms]:
        try:
            with pool.connection() as connection:
                yield make_works(settings, connection, clock, secrets.peppers, secrets.vault)
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise Unavailable("the database does not answer: try again in a moment") from error

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pool.open()
        await _anchor(pool, clock)
        following = asyncio.create_task(_follow(pool, clock, secrets, settings.clock_check_s))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.to_thread(pool.close)

    app = make_api(open_rooms, code_sender(settings), settings.public_url)
    app.router.lifespan_context = lifespan

    return app


async def _anchor(pool: ConnectionPool[BoundedConnection], clock: AnchoredClock) -> None:
    """By the database's clock: what a host whose own is off writes down is not dated wrong."""

    def ask() -> None:
        with pool.connection() as connection:
            anchor(clock, connection)

    # Away for now: the boot clock carries on what was known.
    with contextlib.suppress(psycopg.Error, PoolTimeout):
        await asyncio.to_thread(ask)


async def _follow(
    pool: ConnectionPool[BoundedConnection], clock: AnchoredClock, secrets: ProcessSecrets, every_s: float
) -> None:
    """Keep up with new files of secrets, with the pepper that is used, and with the database's clock."""

    def settle() -> None:
        with pool.connection() as connection:
            settle_issuing(connection, secrets.peppers)

    anchored_s = time.monotonic()
    while True:
        await asyncio.sleep(SECRETS_S)
        with contextlib.suppress(psycopg.Error, PoolTimeout):
            await asyncio.to_thread(secrets.look)
            await asyncio.to_thread(settle)
            secrets.report()
        if time.monotonic() - anchored_s >= every_s:
            await _anchor(pool, clock)
            anchored_s = time.monotonic()


class HostMetrics:
    """Reads the workers' files and the recorder's report when it is asked. `may_change_history`: of the role that it started with."""

    def __init__(self, settings: Settings, *, may_change_history: bool = False) -> None:
        self._settings = settings
        self._may_change_history = may_change_history

    def readings(self) -> list[tuple[str, Reading]]:
        found = []
        for path in sorted(self._settings.run_dir.glob("worker-*.stats")):
            # One of another release may have another form.
            with contextlib.suppress(OSError, ValueError, struct.error):
                found.append((path.stem.removeprefix("worker-"), Reading(path)))
        return found

    def recorder(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            path = self._settings.run_dir / "recorder.json"
            report: dict[str, Any] = json.loads(path.read_text())
            report["age_seconds"] = time.time() - path.stat().st_mtime
            return report
        return {}

    def failed_jobs(self) -> list[tuple[str, str, int]]:
        """(job, state, count), as this host's jobs saw them last."""
        with contextlib.suppress(OSError, ValueError):
            return [tuple(row) for row in json.loads((self._settings.run_dir / "jobs.json").read_text())]
        return []

    def not_ready(self) -> list[str]:
        reasons = []
        if self._settings.leaving.exists():
            reasons.append("draining")
        recorder = self.recorder()
        if not recorder or recorder["age_seconds"] > STALE_S:
            reasons.append("the recorder does not report")
        elif not recorder["database_ok"]:
            reasons.append("the database does not answer")
        elif not recorder["settling_ok"]:
            reasons.append("settlement fails")
        elif recorder["journal_full"]:
            reasons.append("the journal's disk is full")
        elif recorder.get("peppers_lacking"):
            reasons.append(LACKS_PEPPER)
        elif recorder["clock_off"]:
            reasons.append(f"the host's clock is off by {recorder['clock_skew_seconds']:.1f} s")
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

    def collect(self) -> Iterator[Any]:
        readings = self.readings()
        if readings:
            for name in readings[0][1].counters:
                gauge = name in GAUGES
                family: Any = (GaugeMetricFamily if gauge else CounterMetricFamily)(
                    f"tokenworks_{name}", f"{name.replace('_', ' ')} of a worker", labels=["worker"]
                )
                for worker, reading in readings:
                    family.add_metric([worker], reading.counters[name])
                yield family
            for name in HISTOGRAMS:
                family = HistogramMetricFamily(
                    f"tokenworks_{name}", f"{name.replace('_', ' ')} of requests", labels=["worker"]
                )
                for worker, reading in readings:
                    counts, count, total = reading.histograms[name]
                    cumulative, buckets = 0, []
                    for bound, at in zip(BUCKETS_MS, counts, strict=False):
                        cumulative += at
                        buckets.append((str(bound), cumulative))
                    family.add_metric([worker], [*buckets, ("+Inf", count)], total)
                yield family
        release = GaugeMetricFamily(
            "tokenworks_release", "1: the release and the schema that this host serves with", labels=["release", "schema"]
        )  # fmt: skip
        release.add_metric([__version__, SCHEMA], 1)
        yield release
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
        report = self.recorder()
        if report and report["age_seconds"] > STALE_S:
            # What it said then may not be true any more; that it is silent is.
            said = ("database_ok", "settling_ok")
            report = {"age_seconds": report["age_seconds"], **{name: 0 for name in said if name in report}}
        elif report:
            lost = CounterMetricFamily(
                "tokenworks_loss_tokens",
                "tokens that the operator bore, as they were settled by this host",
                labels=["cause"],
            )
            for cause, tokens in report.pop("loss_tokens", {}).items():
                lost.add_metric([cause], tokens)
            yield lost
        yield from exposition.recorder(report)
        yield from exposition.by_model(self._settings.run_dir)
        yield from exposition.limits(self._settings)


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


class Jobs:
    """What is due from time to time, on one host at a time: partitions for the coming months, grants in doubt, cycles, what
    waited for grants, revenue, dunning, notices. One that fails is tried again the next time, and keeps no other from its turn.
    """

    def __init__(self, settings: Settings, url: str, secrets: ProcessSecrets | None = None) -> None:
        self._settings = settings
        self._url = url
        self._secrets = secrets
        self._recognised_s = -math.inf
        self._chained_s = -math.inf
        self._chain_after: UUID | None = None
        self._billed_s = -math.inf

    def run(self) -> None:
        with contextlib.closing(connect(self._url)) as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_JOBS_LOCK,)).fetchone()
            if row is None or not row[0]:
                self._report(FailedJobs(connection, SystemClock()))
                return
            # By the database's clock: a host whose own has jumped renews and expires nothing early.
            clock = AnchoredClock()
            anchor(clock, connection)
            works = make_works(
                self._settings,
                connection,
                clock,
                None if self._secrets is None else self._secrets.peppers,
                None if self._secrets is None else self._secrets.vault,
            )
            for job in (
                self._months,
                self._doubt,
                self._cycles,
                self._revenue,
                self._chains,
                self._bills,
                self._collections,
                self._dunning,
                self._time_outs,
                self._erasures,
                self._notices,
            ):
                try:
                    job(works)
                except Exception as error:  # the next one has its turn
                    log.error(
                        "jobs.failed",
                        job=job.__name__.strip("_"),
                        error=f"{type(error).__name__}: {error}".splitlines()[0],
                    )
            self._report(works.failed_jobs)

    def _report(self, failed: FailedJobs) -> None:
        """For the metrics, of every host: how many jobs failed. None of a state is said, too, so that an alarm ends."""
        counts = failed.counts()
        rows = [(job, state, counts.get((job, state), 0)) for job in JOB_NAMES for state in JOB_STATES]
        path = self._settings.run_dir / "jobs.json"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(rows))
        scratch.replace(path)

    def _months(self, works: Works) -> None:
        ensure_usage_months(works.connection)

    def _doubt(self, works: Works) -> None:
        limit_s = self._settings.in_doubt_limit_s
        written_off = works.ledger.write_off_old(limit_s) if limit_s else 0
        if written_off:
            log.critical("jobs.written_off", grants=written_off, after_seconds=limit_s)

    def _cycles(self, works: Works) -> None:
        done = works.orders.run_cycles() + works.refunds.finish()
        if done:
            log.info("jobs.cycles", products=done)

    def _revenue(self, works: Works) -> None:
        if time.monotonic() - self._recognised_s > RECOGNISE_S:
            works.charges.recognise()
            works.identity.forget_old()
            works.hub.forget_old()
            works.ledger.forget_changes(timedelta(hours=self._settings.change_retain_h))
            self._recognised_s = time.monotonic()

    def _chains(self, works: Works) -> None:
        """What was posted since the day before, a part of the accounts in each turn until all had theirs."""
        if self._chain_after is None and time.monotonic() - self._chained_s < CHAIN_S:
            return
        now = works.ledger.database_now()
        count, self._chain_after = chain_some(works.connection, now, self._chain_after or UUID(int=0))
        if self._chain_after is None:
            self._chained_s = time.monotonic()
        if count:
            log.info("jobs.chains", entries=count)

    def _bills(self, works: Works) -> None:
        """Whose period has ended, from time to time; what is not done in this turn is in the next one."""
        every_h = self._settings.bill_run_every_h
        if not every_h or time.monotonic() - self._billed_s < every_h * 3600:
            return
        made = works.bills.run(batches_max=BILL_BATCHES)
        if made.batches < BILL_BATCHES:
            self._billed_s = time.monotonic()
        if made.bills:
            log.info("jobs.bills", bills=made.bills, amount_nano=made.amount_nano)

    def _collections(self, works: Works) -> None:
        """What a provider was asked for, and no answer is kept of: the process died meanwhile."""
        done = works.payments.finish_collections({TestProvider.name: TestProvider()} if works.is_dev else {})
        if done:
            log.warning("jobs.collections", collections=done)

    def _dunning(self, works: Works) -> None:
        for step, count in works.dunning.run_dunning().items():
            log.warning("jobs.dunning", step=step, bills=count)

    def _time_outs(self, works: Works) -> None:
        failed = time_out(works, self._settings)
        if failed:
            log.warning("jobs.deliveries_timed_out", work_orders=failed)

    def _erasures(self, works: Works) -> None:
        done = works.privacy.run_erasures()
        if done:
            log.info("jobs.erasures", subscribers=done)

    def _notices(self, works: Works) -> None:
        deliver(works, self._settings)


async def _jobs(settings: Settings, url: str, secrets: ProcessSecrets) -> None:
    jobs = Jobs(settings, url, secrets)
    while True:
        try:
            await asyncio.to_thread(jobs.run)
        except Exception as error:  # the database is away, say; the control plane goes on
            log.error("jobs.failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
        say_left_out()
        await asyncio.sleep(JOBS_S)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process has its own

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own wakes ten times a second for a date header that is off."""
        while not self.should_exit:
            await asyncio.sleep(LEAVE_S)


async def serve(
    settings: Settings,
    url: str,
    control: socket.socket,
    admin: socket.socket,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
    *,
    may_change_history: bool,
) -> None:
    loop = asyncio.get_running_loop()

    servers = []
    secrets = ProcessSecrets(settings.secrets, settings.run_dir, "control", *proved)
    metrics = HostMetrics(settings, may_change_history=may_change_history)
    for app in (make_control_app(lambda: url, settings, secrets), make_admin_app(metrics)):
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, date_header=False, limit_concurrency=1000,
            timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        servers.append(_Server(config))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    def supervisor_gone() -> None:
        loop.remove_reader(supervisor)
        stop()

    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop)
    loop.add_reader(supervisor, supervisor_gone)
    jobs = loop.create_task(_jobs(settings, url, secrets))
    beating = loop.create_task(_beat(settings, servers))
    await asyncio.gather(servers[0].serve(sockets=[control]), servers[1].serve(sockets=[admin]))
    jobs.cancel()
    beating.cancel()


async def _beat(settings: Settings, servers: list[_Server]) -> None:
    """It lives, once both ports are served."""
    while not all(server.started for server in servers):
        await asyncio.sleep(BEAT_S)
    beat = Heartbeat(settings.run_dir / "control.stats", os.getpid())
    while True:
        beat.beat()
        await asyncio.sleep(BEAT_S)


def run(
    settings: Settings,
    control: socket.socket,
    admin: socket.socket,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
    *,
    may_change_history: bool,
) -> None:
    """Serve both ports until told to end, or until the supervisor's end of the pipe is closed."""
    configure_logs(settings.log_level, settings.log_format, "control")
    with database(settings) as url:
        asyncio.run(
            serve(settings, url, control, admin, supervisor, proved, may_change_history=may_change_history)
        )
