"""The scheduled jobs: cycles, revenue, bills, dunning, notices and upkeep. One host at a time runs them."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.connections import anchor_clock, connect, ensure_usage_months
from tokenworks.app.logs import log_suppressed
from tokenworks.app.ports.notify import deliver, time_out_deliveries
from tokenworks.app.process.host_secrets import ProcessSecrets
from tokenworks.app.settings import Settings
from tokenworks.billing import TestProvider
from tokenworks.charging import JOB_NAMES, JOB_STATES, FailedJobs, chain_batch
from tokenworks.kernel import AnchoredClock, SystemClock

log = structlog.get_logger()

JOBS_S: Final = 20.0
JOBS_FILE: Final = "jobs.json"
NOTICES_FILE: Final = "notices.json"
_JOBS_LOCK: Final = 7461002
# How often revenue is recognised; a bill run also recognises it.
RECOGNISE_S: Final = 3600.0
CHAIN_S: Final = 86_400.0
# Batches of a bill run in one turn, so that other jobs get their turn.
BILL_BATCHES: Final = 20


class Jobs:
    """Partitions for the coming months, grants in doubt, cycles, refunds that waited for grants, revenue, chains, bills, dunning,
    stored answers, notices. An advisory lock keeps them to one host at a time. A job that fails is tried again in the next turn, and does not stop the
    other jobs.
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
                # The host that runs the jobs reports on the notices.
                write_rows(self._settings, NOTICES_FILE, [])
                return
            # The database's clock: a host whose own clock has jumped renews and expires nothing early.
            clock = AnchoredClock()
            anchor_clock(clock, connection)
            services = make_works(
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
                self._balances,
                self._revenue,
                self._chains,
                self._bills,
                self._collections,
                self._dunning,
                self._time_outs,
                self._erasures,
                self._answers,
                self._notices,
            ):
                try:
                    job(services)
                except Exception as error:  # the next job has its turn
                    log.error(
                        "jobs.failed",
                        job=job.__name__.strip("_"),
                        error=f"{type(error).__name__}: {error}".splitlines()[0],
                    )
            self._report(services.failed_jobs)
            write_rows(self._settings, NOTICES_FILE, services.notices.standing())

    def _report(self, failed: FailedJobs) -> None:
        """Write the numbers of failed jobs for this host's metrics. A state without jobs is written as 0, so that an alarm ends."""
        counts = failed.counts()
        rows = [(job, state, counts.get((job, state), 0)) for job in JOB_NAMES for state in JOB_STATES]
        write_rows(self._settings, JOBS_FILE, rows)

    def _months(self, services: AppServices) -> None:
        ensure_usage_months(services.connection)

    def _doubt(self, services: AppServices) -> None:
        limit_s = self._settings.in_doubt_limit_s
        written_off = services.ledger.write_off_old(limit_s) if limit_s else 0
        if written_off:
            log.critical("jobs.written_off", grants=written_off, after_seconds=limit_s)

    def _cycles(self, services: AppServices) -> None:
        done = services.orders.run_cycles() + services.refunds.finish()
        if done:
            log.info("jobs.cycles", products=done)

    def _balances(self, services: AppServices) -> None:
        services.orders.tell_balances()

    def _revenue(self, services: AppServices) -> None:
        if time.monotonic() - self._recognised_s > RECOGNISE_S:
            services.charges.recognise()
            services.identity.forget_old()
            services.staff_sign_in.forget_old()
            services.passkeys.forget_old()
            services.hub.forget_old()
            services.notices.forget_old()
            services.ledger.forget_changes(timedelta(hours=self._settings.change_retain_h))
            self._recognised_s = time.monotonic()

    def _chains(self, services: AppServices) -> None:
        """Chain the entries of the last day: once a day, a part of the accounts in each turn."""
        if self._chain_after is None and time.monotonic() - self._chained_s < CHAIN_S:
            return
        now = services.ledger.database_now()
        count, self._chain_after = chain_batch(services.connection, now, self._chain_after or UUID(int=0))
        if self._chain_after is None:
            self._chained_s = time.monotonic()
        if count:
            log.info("jobs.chains", entries=count)

    def _bills(self, services: AppServices) -> None:
        """Bill the subscribers whose period has ended, every `bill_run_every_h`; a run goes on over several turns."""
        every_h = self._settings.bill_run_every_h
        if not every_h or time.monotonic() - self._billed_s < every_h * 3600:
            return
        made = services.bills.run(batches_max=BILL_BATCHES)
        if made.batches < BILL_BATCHES:
            self._billed_s = time.monotonic()
        if made.bills:
            log.info("jobs.bills", bills=made.bills, amount_nano=made.amount_nano)

    def _collections(self, services: AppServices) -> None:
        """Finish collections whose process died before the provider's answer was stored."""
        done = services.payments.finish_collections(
            {TestProvider.name: TestProvider()} if services.is_dev else {}
        )
        if done:
            log.warning("jobs.collections", collections=done)

    def _dunning(self, services: AppServices) -> None:
        for step, count in services.dunning.run_dunning().items():
            log.warning("jobs.dunning", step=step, bills=count)

    def _time_outs(self, services: AppServices) -> None:
        failed = time_out_deliveries(services, self._settings)
        if failed:
            log.warning("jobs.deliveries_timed_out", work_orders=failed)

    def _erasures(self, services: AppServices) -> None:
        done = services.privacy.run_erasures()
        if done:
            log.info("jobs.erasures", subscribers=done)

    def _answers(self, services: AppServices) -> None:
        """Delete stored answers and logged content whose time is over, a batch in each turn."""
        services.replays.delete_over()
        services.content_log.delete_over()

    def _notices(self, services: AppServices) -> None:
        deliver(services, self._settings)


def write_rows(settings: Settings, name: str, rows: Sequence[Sequence[object]]) -> None:
    """Write numbers for this host's metrics into a file of `run_dir`, whole or not at all."""
    path = settings.run_dir / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(rows))
    scratch.replace(path)


async def run_jobs(settings: Settings, url: str, secrets: ProcessSecrets) -> None:
    jobs = Jobs(settings, url, secrets)
    while True:
        try:
            await asyncio.to_thread(jobs.run)
        except Exception as error:  # the database is away, for example; the control plane goes on
            log.error("jobs.failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
        log_suppressed()
        await asyncio.sleep(JOBS_S)
