"""The recorder process: the host's charging agent, and its feed of changes (snapshot, keys, accounts)."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import structlog
import uvloop
from msgspec import Raw
from psycopg import Connection

from tokenworks import __version__
from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.connections import anchor_clock, connect, connect_planned, database
from tokenworks.app.database.schema import SCHEMA, check_schema
from tokenworks.app.logs import configure_logs, log_suppressed
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.app.process.change_feed import ChangeFeed
from tokenworks.app.process.content_questions import ContentQuestions
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.process.host_conditions import HostConditions
from tokenworks.app.process.host_secrets import HostReport, ProcessSecrets
from tokenworks.app.process.journal_takeover import hand_over, take_journal
from tokenworks.app.process.key_lookups import KeyLookups
from tokenworks.app.process.recall_listener import RecallListener
from tokenworks.app.process.recorder_report import write_report
from tokenworks.app.process.replay_questions import ReplayQuestions
from tokenworks.app.process.worker_questions import WorkerQuestions
from tokenworks.app.settings import Settings
from tokenworks.catalog import Weights
from tokenworks.charging import (
    DatabaseThread,
    HostGrants,
    HostLimits,
    HostQueues,
    Journal,
    JournalCorrupt,
    Ledger,
    Need,
    Recorder,
    RecorderLedger,
    Release,
    Settler,
    WorkerConnection,
)
from tokenworks.gateway import Heartbeat
from tokenworks.kernel import AnchoredClock, SystemClock, TokenworksError, Unavailable
from tokenworks.trust import Peppers, VaultSecrets

log = structlog.get_logger()

TEND_S: Final = 1.0
REPORT_S: Final = 1.0
SECRETS_S: Final = 1.0
BEAT_S: Final = 0.25
DRAIN_S: Final = 10.0
DATABASE_RETRY_S: Final = 0.25
EXIT_FATAL: Final = 70
EXIT_CORRUPT: Final = 78

Result = TypeVar("Result")


class RegisteredJournal(NamedTuple):
    """What the database knows of this host's journal. `open_grants`: (account, bucket, grant, amount, used) of each."""

    settled_seq: int
    open_grants: list[tuple[str, str, str, int, int]]


class RecorderProcess:
    """The parts of a recorder process, and their order: begin, serve, end."""

    def __init__(
        self, settings: Settings, url: str, supervisor: int, proved: tuple[Peppers, VaultSecrets]
    ) -> None:
        self._settings = settings
        self._url = url
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._handing_over = asyncio.Event()
        self._clock = AnchoredClock(SystemClock(settings.clock_shift_s))
        self._secrets = ProcessSecrets(settings.secrets, settings.run_dir, "recorder", *proved)
        self._heartbeat = Heartbeat(settings.run_dir / "recorder.stats", os.getpid())
        self._lookup_thread = DatabaseThread(lambda: connect_planned(url), "lookups")
        self._ledger_thread = DatabaseThread(lambda: connect_planned(url), "ledger")
        # A call that may wait for a lock has a thread of its own.
        self._lock_thread = DatabaseThread(lambda: connect_planned(url), "ledger-alone")
        self._replay_thread = DatabaseThread(lambda: connect_planned(url), "replays")
        self._journal: Journal
        self._recorder: Recorder
        self._ledger: RecorderLedger
        self._conditions: HostConditions
        self._feed: ChangeFeed
        self._questions: WorkerQuestions

    async def run(self, listener: socket.socket) -> int:
        """Record until this process is told to stop. Returns an exit code."""
        beating = self._loop.create_task(self._beat())
        # The recorder that has the journal keeps it until this one has a database to go on with.
        await _until_answered(self._ledger_thread, self._check_database)
        try:
            self._journal = await take_journal(self._settings)
        except TokenworksError as error:
            log.critical("recorder.journal", error=str(error))
            return EXIT_FATAL
        self._recorder = Recorder(
            self._journal,
            self._settings.run_dir / "workers",
            self._answer,
            on_fatal=self._fatal,
            loss_budget_tokens=self._settings.operator_loss_budget_tokens,
        )
        try:
            await self._begin()
        except JournalCorrupt as error:
            log.critical("recorder.journal_corrupt", error=str(error))
            return EXIT_CORRUPT
        RecallListener(self._url, self._recall_arrived).start()
        recorder = self._recorder
        server = await self._loop.create_unix_server(lambda: WorkerConnection(recorder), sock=listener)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(RETIRE, self._retire)
        self._loop.add_reader(self._supervisor, self._stop.set)
        tasks = [
            self._loop.create_task(part)
            for part in (self._feed.run(), self._tend(), self._report(), self._look_at_secrets())
        ]
        await self._stop.wait()
        await self._end(server, tasks)
        beating.cancel()
        return 0

    # The beginning.

    def _check_database(self, connection: Connection) -> None:
        check_schema(connection)
        anchor_clock(self._clock, connection)

    def _register_journal(self, connection: Connection) -> RegisteredJournal:
        ledger, journal_id = Ledger(connection, self._clock), self._journal.journal_id
        settled = ledger.register_journal(journal_id, socket.gethostname())
        ledger.report_release(journal_id, Release(__version__, SCHEMA))
        return RegisteredJournal(settled, ledger.open_grants(journal_id))

    async def _begin(self) -> None:
        """Recover what the journal has beyond the database, and open the books. Raises `JournalCorrupt`."""
        recorder, journal = self._recorder, self._journal
        # Nothing is recovered before the database says how far it has settled.
        registered = await _until_answered(self._ledger_thread, self._register_journal)
        unsettled = recorder.recover(registered.settled_seq, self._heartbeat.beat)
        self._make_parts(registered.settled_seq)
        used: dict[str, int] = {}
        for _, _, amounts, _ in unsettled:
            for amount in amounts:
                used[amount.grant_id] = used.get(amount.grant_id, 0) + amount.amount
        for account_id, bucket_id, grant_id, granted, settled_used in registered.open_grants:
            recorder.grants.adopt(
                account_id, bucket_id, grant_id, granted, settled_used + used.get(grant_id, 0)
            )
        recorder.settler.put(unsettled)
        recorder.settler.advance(journal.next_seq - 1)
        recorder.begin()
        # Late records are charged by the rate cards, which the first poll reads.
        with contextlib.suppress(Unavailable):
            await self._feed.poll()
        recorder.settler.start()
        gc.collect()
        gc.freeze()
        log.info(
            "recorder.serves",
            journal=str(journal.journal_id),
            unsettled=len(unsettled),
            open_grants=len(registered.open_grants),
        )

    def _make_parts(self, settled_seq: int) -> None:
        settings, clock, recorder, journal = self._settings, self._clock, self._recorder, self._journal
        recorder.settler = settler = Settler(
            lambda: connect(self._url),
            journal.journal_id,
            settled_seq,
            self._settled,
            self._rate,
            self._fatal,
        )
        self._ledger = RecorderLedger(
            self._ledger_thread,
            settler,
            clock,
            journal.journal_id,
            lambda: journal.next_seq - 1,
            self._top_up,
            self._lock_thread,
        )
        report = HostReport(settings.secrets, settings.run_dir, journal.journal_id)
        self._conditions = HostConditions(recorder, settings, clock)
        self._feed = ChangeFeed(
            self._lookup_thread,
            recorder,
            settings,
            clock,
            self._secrets.peppers,
            report,
            self._conditions,
        )
        key_lookups = KeyLookups(self._lookup_thread, self._make_services)
        turns = AccountTurns(self._replay_thread)
        replays = ReplayQuestions(recorder, turns, self._make_services)
        recorder.on_lost = replays.lost
        content = ContentQuestions(turns, self._make_services)
        self._questions = WorkerQuestions(
            recorder, self._conditions, key_lookups, replays, content, turns, clock
        )
        recorder.grants = HostGrants(
            self._ledger,
            self._feed.rate,
            recorder.send,
            clock,
            spend_for_s=settings.grant_spend_s,
            idle_s=settings.grant_idle_s,
            on_fatal=self._fatal,
        )
        recorder.limits = HostLimits(self._ledger, recorder.send, clock, on_fatal=self._fatal)
        recorder.queues = HostQueues(recorder.limits, recorder.send, clock, settings.queue_max)

    def _make_services(self, connection: Connection) -> AppServices:
        return make_works(self._settings, connection, self._clock, self._secrets.peppers, self._secrets.vault)

    # What the parts call. The settler and the listener call from threads of their own.

    def _fatal(self, error: BaseException) -> None:
        # The log may fail as well, on a full disk for one; this process ends in any case.
        try:
            log.critical("recorder.fatal", error=f"{type(error).__name__}: {error}", exc_info=error)
        finally:
            os._exit(EXIT_FATAL)

    async def _answer(self, name: str, argument: Raw) -> Raw:
        return await self._questions.answer(name, argument)

    def _rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        return self._feed.rate(rate_version, model)

    def _top_up(self, connection: Connection, account_id: UUID, model: str, need: Need) -> bool:
        return self._make_services(connection).payg.buy(account_id, model, need)

    def _settled(self, seq: int) -> None:
        self._call_in_loop(lambda: self._ledger.settled(seq))

    def _recall_arrived(self) -> None:
        self._call_in_loop(self._recorder.grants.answer_recalls)

    def _call_in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends
            self._loop.call_soon_threadsafe(call)

    def _retire(self) -> None:
        self._handing_over.set()
        self._stop.set()

    # What runs beside the workers' connections.

    async def _beat(self) -> None:
        while True:
            self._heartbeat.beat()
            await asyncio.sleep(BEAT_S)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self._recorder.tend(self._settings.journal_retain_s)
            except Exception as error:  # an invariant is broken: the next recorder starts from the journal
                self._fatal(error)

    async def _look_at_secrets(self) -> None:
        while True:
            await asyncio.sleep(SECRETS_S)
            self._secrets.load_new()

    async def _report(self) -> None:
        while True:
            try:
                log_suppressed()
                self._conditions.check_blocked_keys()
                self._conditions.check_clock()
                self._write_report()
            except OSError as error:  # a full disk: /readyz and the age of the report show it
                log.error("recorder.report_failed", error=str(error))
            await asyncio.sleep(REPORT_S)

    def _write_report(self) -> None:
        write_report(self._recorder, self._feed, self._conditions, self._settings)

    # The end.

    async def _end(self, server: asyncio.Server, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Hear the workers to their end, then close the grants and settle. Never returns where another recorder takes over."""
        recorder, journal, loop = self._recorder, self._journal, self._loop
        loop.remove_reader(self._supervisor)
        # The workers leave first: every message that they still send is recorded.
        deadline_s = loop.time() + self._settings.drain_s + DRAIN_S
        while recorder.workers and loop.time() < deadline_s and not self._handing_over.is_set():
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        server.close()
        if self._handing_over.is_set():
            await hand_over(recorder, (self._ledger_thread, self._lock_thread, self._lookup_thread))
        closed = False
        while loop.time() < deadline_s and not closed:
            closed = await recorder.grants.drain()
            if not closed:
                await asyncio.sleep(0.05)
        with contextlib.suppress(Unavailable):
            await self._ledger_thread.run(
                lambda connection: Ledger(connection, self._clock).host_leaves(journal.journal_id)
            )
        all_settled = await loop.run_in_executor(None, recorder.settler.stop, DRAIN_S)
        self._write_report()
        journal.close()
        log.info("recorder.left", all_settled=all_settled, all_grants_closed=closed)


async def _until_answered(thread: DatabaseThread, call: Callable[[Connection], Result]) -> Result:
    """Repeat the call until the database answers it."""
    while True:
        try:
            return await thread.run(call)
        except Unavailable as error:
            log.warning("recorder.waits_for_database", error=str(error))
            await asyncio.sleep(DATABASE_RETRY_S)


async def serve(
    settings: Settings,
    url: str,
    listener: socket.socket,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
) -> int:
    return await RecorderProcess(settings, url, supervisor, proved).run(listener)


def run(
    settings: Settings, listener: socket.socket, supervisor: int, proved: tuple[Peppers, VaultSecrets]
) -> int:
    """Record until told to end, or until the supervisor's end of the pipe is closed. Returns an exit code."""
    configure_logs(settings.log_level, settings.log_format, "recorder")
    # A full garbage collection stops every commit; objects that live long are frozen out of it.
    gc.set_threshold(50_000, 20, 100)
    # The recorder has its own hold on the embedded database: the journal is settled even after the supervisor's death.
    with database(settings) as url:
        return uvloop.run(serve(settings, url, listener, supervisor, proved))
