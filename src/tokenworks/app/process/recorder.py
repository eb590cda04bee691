"""The recorder process: the host's charging agent, with the host's ear for changes (snapshot, keys, accounts)."""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, NoReturn, TypeVar
from uuid import UUID

import psycopg
import structlog
import uvloop
from msgspec import Raw
from psycopg import Connection

from tokenworks import __version__
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import (
    ArchiveState,
    anchor,
    archive_state,
    connect,
    connect_planned,
    database,
    identity,
)
from tokenworks.app.database.schema import SCHEMA, check_schema
from tokenworks.app.logs import configure_logs, say_left_out
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.process.host_secrets import HostReport, ProcessSecrets
from tokenworks.app.process.key_lookups import KeyLookups
from tokenworks.app.process.served import say_waiting
from tokenworks.app.settings import Settings
from tokenworks.catalog import Offerings, RateCard, Weights
from tokenworks.charging import (
    BLOCKED_KEYS,
    CLOCK_OFFSET,
    COMMIT_US,
    DATABASE_ALIVE,
    DEPLOYMENT_PAUSE,
    JOURNAL_SPACE,
    KEYS,
    MISSING_PEPPERS,
    OBJECT_OWNER,
    PAUSED_DEPLOYMENTS,
    SETTLE_US,
    SNAPSHOT,
    BlockedKeys,
    ClockOffset,
    DatabaseAlive,
    DatabaseThread,
    HostGrants,
    HostLimits,
    HostQueues,
    Journal,
    JournalBusy,
    JournalCorrupt,
    JournalSpace,
    Ledger,
    LedgerWentBack,
    Limit,
    MissingPeppers,
    Need,
    ObjectOwner,
    PausedDeployments,
    PublishedSnapshot,
    Recorder,
    RecorderLedger,
    Release,
    Settler,
    WorkerConnection,
    decode_record,
)
from tokenworks.factory import Deployment, Deployments, Intent, ModelCard
from tokenworks.gateway import Heartbeat, snapshot_to_wire
from tokenworks.kernel import AnchoredClock, Clock, SystemClock, TokenworksError, Unavailable
from tokenworks.trust import Keys, Peppers, VaultSecrets

log = structlog.get_logger()

POLL_S: Final = 0.5
LOOK_S: Final = 2.0
BLOCKED_MAX: Final = 100_000
# Deployments whose upstream named a time, at once.
RESTS_MAX: Final = 10_000
TEND_S: Final = 1.0
LISTEN_AGAIN_S: Final = 1.0
STATUS_S: Final = 1.0
SECRETS_S: Final = 1.0
DRAIN_S: Final = 10.0
US_PER_S: Final = 1_000_000
EXIT_FATAL: Final = 70
EXIT_CORRUPT: Final = 78
ATTEMPTS_TO_CONNECT_S: Final = 0.25
BEAT_S: Final = 0.25
# One recorder waits so long for another one's journal, and looks so often.
JOURNAL_WAIT_S: Final = 60.0
JOURNAL_POLL_S: Final = 0.005
# For each of two things that a recorder ends before the next one begins.
HAND_OVER_S: Final = 1.0

Answered = TypeVar("Answered")


class Feed:
    """Polls the change sequence twice a second and tells the workers: that is the truth, there is no other."""

    def __init__(
        self,
        thread: DatabaseThread,
        recorder: Recorder,
        settings: Settings,
        clock: AnchoredClock,
        peppers: Peppers,
        host_report: HostReport,
    ) -> None:
        self._clock = clock
        self._peppers = peppers
        self._host_report = host_report
        self.peppers_lacking: list[int] = []
        self._thread = thread
        self._recorder = recorder
        self._settings = settings
        self._xmin = "0"
        self._seen: set[int] = set()
        self._number = 0
        self.cards: dict[str, RateCard] = {}
        self._rates: dict[tuple[str, str], tuple[str, Weights] | None] = {}
        self.ok = False
        self.journal_full = False
        self.in_doubt = (0, 0, 0)
        self.quarantined = 0
        self.hosts = 1
        # None: this host's database is not archived by us.
        self.archive: ArchiveState | None = None
        self._database = ""
        self._blocked: list[str] = []
        self._looked_s = -1e9
        self._measured_s = -1e9
        self.clock_off = False
        self._rests: dict[str, float] = {}
        self._told_clock: tuple[int, bool] | None = None

    def rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        key = (rate_version, model)
        if key not in self._rates:
            card = self.cards.get(rate_version)
            rate = card.rate_for(model) if card else None
            if card is None:
                return None
            if len(self._rates) > 100_000:
                self._rates.clear()
            self._rates[key] = None if rate is None else (rate.model_class, rate.weights())
        return self._rates[key]

    @property
    def skew_s(self) -> float:
        """By how much this host's wall clock is ahead of the database's."""
        return self._clock.skew_s

    @property
    def clock_error_s(self) -> float:
        """How far off `skew_s` may be."""
        return self._clock.error_s

    async def run(self) -> None:
        while True:
            try:
                await self.poll()
            except Unavailable:
                pass
            except (
                Exception
            ) as error:  # the database went back, or an invariant is broken: the next recorder begins anew
                self._recorder.fatal(error)
            await asyncio.sleep(POLL_S)

    async def _measure(self) -> None:
        """Compare civil time with the database's, every `clock_check_s`."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._measured_s >= self._settings.clock_check_s:
            await self._thread.run(lambda connection: anchor(self._clock, connection))
            self._measured_s = now_s

    def look_at_clock(self) -> None:
        """Tell the workers the time, and whether this host's own is off. Also while the database is away: the boot clock carries
        its time on, so a wall clock that is set meanwhile is seen.
        """
        anchored = self._clock.anchored
        if anchored is None:
            return
        off = self._clock.is_off(self._settings.clock_skew_max_s)
        if off != self.clock_off:
            log.critical("recorder.clock_skew", off=off, ahead_seconds=round(self._clock.skew_s, 3))
            self.clock_off = off
        if (anchored[0], off) != self._told_clock:
            self._told_clock = anchored[0], off
            off_s = abs(self._clock.skew_s) if off else None
            told = ClockOffset(anchored[0], anchored[1], off_s)
            self._recorder.publish(CLOCK_OFFSET, told, keep=True)

    async def _look(self) -> None:
        """For the metrics: what is in doubt and in quarantine. Seldom: it is not news."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s

        waiting = self._recorder.settler.keys_used
        used = list({UUID(waiting.popleft().decode()) for _ in range(len(waiting))})
        # What was settled before the question must be settled in the answer.
        expected = self._recorder.settler.settled_seq

        def read(connection: Connection) -> tuple[tuple[int, int, int], int, int, list[int]]:
            self._check_went_back(connection, expected)
            on_database = Ledger(connection, self._clock)
            on_database.delete_old_recalls()
            on_database.delete_old_account_losses()
            if used:
                Keys(connection, self._peppers, self._clock, self._settings.environment).used(used)
            if self._settings.archive_to and not self._settings.database_url:
                self.archive = archive_state(connection)
            alive = on_database.hosts_alive(self._recorder.journal.journal_id)
            lacking = self._host_report.tell(connection)
            return on_database.in_doubt(), len(on_database.quarantined()), alive, lacking

        self.in_doubt, self.quarantined, self.hosts, lacking = await self._thread.run(read)
        if lacking != self.peppers_lacking:
            self.peppers_lacking = lacking
            log.critical("recorder.peppers_lacking", versions=lacking)
            self._recorder.publish(MISSING_PEPPERS, MissingPeppers(lacking), keep=True)
        self._recorder.limits.set_hosts(self.hosts)

    def _check_went_back(self, connection: Connection, expected: int) -> None:
        """A fail-over or a restore: the next recorder replays the journal from where this database is, and gives out
        nothing before. Raises `LedgerWentBack`.
        """
        found = identity(connection)
        if self._database and found and found != self._database:
            raise LedgerWentBack(f"the database was {self._database}, and now is {found}")
        self._database = found or self._database
        settled = Ledger(connection, self._clock).settled_seq(self._recorder.journal.journal_id)
        if settled is None or settled < expected:
            raise LedgerWentBack(f"the database had settled {expected}, and now says {settled}")

    def rested(self, place: str, until_s: float) -> None:
        """An upstream named a time to one worker: all of them hear it, also those that begin later."""
        now_s = asyncio.get_running_loop().time()
        live = {name: at_s for name, at_s in self._rests.items() if at_s > now_s}
        if len(live) < RESTS_MAX or place in live:
            live[place] = max(until_s, live.get(place, 0.0))
        self._rests = live
        self._recorder.publish(PAUSED_DEPLOYMENTS, PausedDeployments(live), keep=True)

    def look_at_blocked(self) -> None:
        """Keys that an operator blocked on this host: known without the database."""
        try:
            ids = self._settings.blocked_keys.read_text(encoding="ascii").split()[:BLOCKED_MAX]
        except FileNotFoundError:
            ids = []
        if ids != self._blocked:
            self._blocked = ids
            log.warning("recorder.keys_blocked", keys=len(ids))
            self._recorder.publish(BLOCKED_KEYS, BlockedKeys(ids), keep=True)

    def look_at_disk(self) -> int:
        """Bytes that are free for the journal. Below the reserve nothing new is begun."""
        free = shutil.disk_usage(self._settings.journal).free
        # Records that wait for the database are in memory, too.
        behind = self._recorder.settler.backlog >= self._settings.unsettled_records_max
        full = free < self._settings.journal_reserve_bytes or behind
        if full != self.journal_full:
            log.critical("recorder.journal_full", full=full, free_bytes=free, unsettled_behind=behind)
            self.journal_full = full
            self._recorder.publish(JOURNAL_SPACE, JournalSpace(full), keep=True)
        return free

    async def poll(self) -> None:
        first = not self._number
        losses = self._recorder.losses
        lost: tuple[int, int, list[tuple[str, int]]] | None = None

        def read(connection: Connection) -> tuple[str, list[tuple[int, str, str]]]:
            nonlocal lost
            if losses.budget_tokens:
                # From half the budget on: what this host adds to it is known here before it is settled.
                lost = Ledger(connection, self._clock).losses_of_today(
                    self._recorder.journal.journal_id, losses.budget_tokens // 2
                )
            # Whatever was not visible at the last poll has a transaction id from that poll's horizon on.
            return Ledger(connection, self._clock).changes(None if first else self._xmin)

        try:
            xmin, rows = await self._thread.run(read)
        except Unavailable:
            self.ok = False
            raise
        self.ok = True
        if lost is not None:
            losses.read(*lost)
        await self._measure()
        self.look_at_clock()
        if any(row[1] == "pepper" and row[0] not in self._seen for row in rows):
            self._looked_s = -1e9
        await self._look()
        changes = [row for row in rows if row[0] not in self._seen]
        self._seen = {row[0] for row in rows}
        self._xmin = xmin
        kinds = {kind for _, kind, _ in changes}
        if first or "snapshot" in kinds:
            await self._publish_snapshot()
        keys = [ref for _, kind, ref in changes if kind == "key"]
        accounts = [ref for _, kind, ref in changes if kind in {"account", "freeze"}]
        for account_id in accounts:
            self._recorder.grants.account_changed(account_id)
        for ref in [ref for _, kind, ref in changes if kind == "grant"]:
            self._recorder.grants.close_soon(*ref.split(":"))
        self._recorder.grants.answer_recalls()
        self._recorder.publish(DATABASE_ALIVE, DatabaseAlive(keys, accounts), keep=False)

    async def _publish_snapshot(self) -> None:
        found = await self._thread.run(lambda connection: read_snapshot(connection, self._clock))
        self.cards = found.cards
        self._number += 1
        # A number that grows over restarts of the recorder, too.
        number = int(asyncio.get_running_loop().time() * 1000) * 1000 + self._number % 1000
        self._recorder.publish(SNAPSHOT, found.wire(number), keep=True)


class ReadSnapshot(NamedTuple):
    """What the database has of that which requests are placed and rated by."""

    deployments: list[Deployment]
    aliases: dict[str, str]
    cards: dict[str, RateCard]
    limits: dict[str, Limit]
    models: list[ModelCard]
    intents: list[Intent]

    def wire(self, number: int) -> PublishedSnapshot:
        """As workers read it."""
        return snapshot_to_wire(
            number, self.deployments, self.aliases, self.cards, self.limits, self.models, self.intents
        )


def read_snapshot(connection: Connection, clock: Clock) -> ReadSnapshot:
    """Six questions, one after the other: what changes between two of them is news of the next poll."""
    deployments = Deployments(connection)
    limits = Ledger(connection, clock).deployment_limits()
    return ReadSnapshot(
        deployments.all(),
        deployments.aliases(),
        Offerings(connection).rate_cards(),
        limits,
        deployments.models(),
        deployments.intents(),
    )


async def serve(
    settings: Settings,
    url: str,
    listener: socket.socket,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    clock = AnchoredClock(SystemClock(settings.clock_shift_s))
    secrets = ProcessSecrets(settings.secrets, settings.run_dir, "recorder", *proved)

    def fatal(error: BaseException) -> None:
        # Whatever says so may fail, too; this process ends.
        try:
            log.critical("recorder.fatal", error=f"{type(error).__name__}: {error}", exc_info=error)
        finally:
            os._exit(EXIT_FATAL)

    beat = Heartbeat(settings.run_dir / "recorder.stats", os.getpid())
    workers_dir = settings.run_dir / "workers"
    lookups = DatabaseThread(lambda: connect_planned(url), "lookups")
    ledger_thread = DatabaseThread(lambda: connect_planned(url), "ledger")
    alone_thread = DatabaseThread(lambda: connect_planned(url), "ledger-alone")

    keys = KeyLookups(
        lookups, lambda connection: make_works(settings, connection, clock, secrets.peppers, secrets.vault)
    )

    async def answer(name: str, argument: Raw) -> Raw:
        if name == KEYS.name:
            return KEYS.answer(await keys.find(KEYS.decode_argument(argument)))
        if name == OBJECT_OWNER.name:
            asked = OBJECT_OWNER.decode_argument(argument)
            account_id, upstream_id = asked.account_id, asked.upstream_id
            for _, account, _, text in recorder.unsettled():
                if account == account_id and upstream_id.encode() in text:
                    record = decode_record(text)
                    if record.upstream_id == upstream_id and record.protocol == "responses":
                        return OBJECT_OWNER.answer(ObjectOwner(record.deployment, sum(record.c)))
            owned = await lookups.run(lambda c: Ledger(c, clock).owns_upstream_id(account_id, upstream_id))
            return OBJECT_OWNER.answer(ObjectOwner(*(owned or ("", 0))))
        if name == DEPLOYMENT_PAUSE.name:
            rested = DEPLOYMENT_PAUSE.decode_argument(argument)
            feed.rested(rested.deployment, rested.until_s)
            return DEPLOYMENT_PAUSE.answer(None)
        raise Unavailable(f"nothing answers {name}")

    def look(connection: Connection) -> None:
        check_schema(connection)
        anchor(clock, connection)

    def begin(connection: Connection) -> tuple[int, list[tuple[str, str, str, int, int]]]:
        on_database = Ledger(connection, clock)
        settled = on_database.register_journal(journal.journal_id, socket.gethostname())
        on_database.report_release(journal.journal_id, Release(__version__, SCHEMA))
        return settled, on_database.open_grants(journal.journal_id)

    beating = loop.create_task(_beat(beat))
    # Whoever has the journal keeps it until this one can take over from it.
    await _patiently(ledger_thread, look)
    try:
        journal = await _take_journal(settings)
    except TokenworksError as error:
        log.critical("recorder.journal", error=str(error))
        return EXIT_FATAL
    recorder = Recorder(
        journal,
        workers_dir,
        answer,
        on_fatal=fatal,
        loss_budget_tokens=settings.operator_loss_budget_tokens,
    )
    # Nothing is recovered before the database says how far it has settled.
    settled_seq, grants_open = await _patiently(ledger_thread, begin)
    try:
        unsettled = recorder.recover(settled_seq, beat.beat)
    except JournalCorrupt as error:
        log.critical("recorder.journal_corrupt", error=str(error))
        return EXIT_CORRUPT

    ledger: RecorderLedger

    def settled(seq: int) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ledger.settled, seq)

    feed: Feed

    def rate(rate_version: str, model: str) -> tuple[str, Weights] | None:
        return feed.rate(rate_version, model)

    settler = Settler(
        lambda: connect(url),
        journal.journal_id,
        settled_seq,
        settled,
        rate,
        fatal,
    )

    def top_up(connection: Connection, account_id: UUID, model: str, need: Need) -> bool:
        return make_works(settings, connection, clock, secrets.peppers, secrets.vault).payg.buy(
            account_id, model, need
        )

    ledger = RecorderLedger(
        ledger_thread, settler, clock, journal.journal_id, lambda: journal.next_seq - 1, top_up, alone_thread
    )
    report = HostReport(settings.secrets, settings.run_dir, journal.journal_id)
    feed = Feed(lookups, recorder, settings, clock, secrets.peppers, report)
    recorder.settler = settler
    recorder.grants = grants = HostGrants(
        ledger,
        feed.rate,
        recorder.send,
        clock,
        spend_for_s=settings.grant_spend_s,
        idle_s=settings.grant_idle_s,
        on_fatal=fatal,
    )
    recorder.limits = HostLimits(ledger, recorder.send, clock, on_fatal=fatal)
    recorder.queues = HostQueues(recorder.limits, recorder.send, clock, settings.queue_max)
    used: dict[str, int] = {}
    for _, _, parts, _ in unsettled:
        for part in parts:
            used[part.grant_id] = used.get(part.grant_id, 0) + part.amount
    for account_id, bucket_id, grant_id, amount, settled_used in grants_open:
        grants.adopt(account_id, bucket_id, grant_id, amount, settled_used + used.get(grant_id, 0))
    settler.put(unsettled)
    settler.advance(journal.next_seq - 1)
    recorder.begin()
    settler.start()
    with contextlib.suppress(Unavailable):
        await feed.poll()
    gc.collect()
    gc.freeze()
    log.info(
        "recorder.serves",
        journal=str(journal.journal_id),
        unsettled=len(unsettled),
        open_grants=len(grants_open),
    )

    def heard() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends
            loop.call_soon_threadsafe(grants.answer_recalls)

    Listener(url, heard).start()
    server = await loop.create_unix_server(lambda: WorkerConnection(recorder), sock=listener)
    handing_over = asyncio.Event()

    def retire() -> None:
        handing_over.set()
        stop.set()

    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    loop.add_signal_handler(RETIRE, retire)
    loop.add_reader(supervisor, stop.set)
    tasks = [
        loop.create_task(feed.run()),
        loop.create_task(_tend(recorder, settings)),
        loop.create_task(_report(recorder, feed, settings)),
        loop.create_task(_keep_up(secrets)),
    ]
    await stop.wait()
    loop.remove_reader(supervisor)
    # The workers leave first: everything that they still say is heard.
    deadline_s = loop.time() + settings.drain_s + DRAIN_S
    while recorder.workers and loop.time() < deadline_s and not handing_over.is_set():
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    server.close()
    if handing_over.is_set():
        await _hand_over(recorder, (ledger_thread, alone_thread, lookups))
    closed = False
    while loop.time() < deadline_s and not closed:
        closed = await grants.drain()
        if not closed:
            await asyncio.sleep(0.05)
    with contextlib.suppress(Unavailable):
        await ledger_thread.run(lambda c: Ledger(c, clock).host_leaves(journal.journal_id))
    all_settled = await loop.run_in_executor(None, settler.stop, DRAIN_S)
    _write_status(recorder, feed, settings)
    journal.close()
    beating.cancel()
    log.info("recorder.left", all_settled=all_settled, all_grants_closed=closed)
    return 0


async def _beat(beat: Heartbeat) -> None:
    while True:
        beat.beat()
        await asyncio.sleep(BEAT_S)


async def _patiently(thread: DatabaseThread, call: Callable[[Connection], Answered]) -> Answered:
    """Ask until the database answers."""
    while True:
        try:
            return await thread.run(call)
        except Unavailable as error:
            log.warning("recorder.waits_for_database", error=str(error))
            await asyncio.sleep(ATTEMPTS_TO_CONNECT_S)


async def _take_journal(settings: Settings) -> Journal:
    """The journal, when the recorder that has it has handed it over or has ended. Raises `JournalBusy` after `JOURNAL_WAIT_S`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + JOURNAL_WAIT_S
    said = False
    while True:
        try:
            return Journal(settings.journal, settings.journal_segment_bytes)
        except JournalBusy:
            if loop.time() > until_s:
                raise
        if not said:
            say_waiting(settings.run_dir)
            log.info("recorder.waits_for_journal", why="the recorder before this one still has it")
            said = True
        await asyncio.sleep(JOURNAL_POLL_S)


async def _hand_over(recorder: Recorder, threads: Iterable[DatabaseThread]) -> NoReturn:
    """To the recorder that waits for the journal: grants stay open, workers stay, and what is not settled is in the journal. Never
    returns: what is left to do here is what a kill leaves, and the next one begins from that.
    """
    try:
        recorder.hand_over()
        # What is asked of the database just now has its answer before somebody else asks.
        asked = [asyncio.ensure_future(thread.run(lambda _: None)) for thread in threads]
        await asyncio.wait(asked, timeout=HAND_OVER_S)
        settled = await asyncio.get_running_loop().run_in_executor(None, recorder.settler.stop, HAND_OVER_S)
        log.info("recorder.handed_over", all_settled=settled)
    finally:
        sys.stderr.flush()
        os._exit(0)


class Listener(threading.Thread):
    """Hears the ledger's hints that some host waits for what this one has. The poll is the truth."""

    def __init__(self, url: str, heard: Callable[[], None]) -> None:
        super().__init__(name="listener", daemon=True)
        self._url = url
        self._heard = heard

    def run(self) -> None:
        while True:
            try:
                with contextlib.closing(connect(self._url)) as connection:
                    connection.execute("LISTEN tokenworks_recall")
                    for _ in connection.notifies():
                        self._heard()
            except (psycopg.Error, TokenworksError):
                time.sleep(LISTEN_AGAIN_S)


async def _tend(recorder: Recorder, settings: Settings) -> None:
    while True:
        await asyncio.sleep(TEND_S)
        try:
            await recorder.tend(settings.journal_retain_s)
        except Exception as error:  # an invariant is broken: stop, the next recorder starts from the journal
            recorder.fatal(error)


async def _keep_up(secrets: ProcessSecrets) -> None:
    while True:
        await asyncio.sleep(SECRETS_S)
        secrets.look()


async def _report(recorder: Recorder, feed: Feed, settings: Settings) -> None:
    while True:
        try:
            say_left_out()
            feed.look_at_blocked()
            feed.look_at_clock()
            _write_status(recorder, feed, settings)
        except (
            OSError
        ) as error:  # a full disk: what it would say is said by /readyz and the age of the report
            log.error("recorder.report_failed", error=str(error))
        await asyncio.sleep(STATUS_S)


def _write_status(recorder: Recorder, feed: Feed, settings: Settings) -> None:
    """What the control plane shows as metrics: a small file, replaced whole."""
    settler = recorder.settler
    grants = [
        bucket
        for account in recorder.grants.accounts.values()
        for bucket in account.buckets.values()
        if bucket.grant_id
    ]
    status = {
        "pid": os.getpid(),
        "database_ok": int(feed.ok),
        "settling_ok": int(settler.failing_since_s is None),
        "journal_commits": recorder.journal.commits,
        "journal_commit_seconds": recorder.commit_ns_total / 1e9,
        "journal_last_commit_seconds": recorder.journal.last_commit_s,
        "written_seq": recorder.journal.next_seq - 1,
        "settled_seq": settler.settled_seq,
        "unsettled_records": settler.backlog,
        "oldest_unsettled_seconds": settler.oldest_s,
        "quarantined_records": feed.quarantined,
        "loss_tokens": dict(settler.lost_tokens),
        "accounts_over_loss_budget": len(recorder.losses.over),
        "hosts": feed.hosts,
        "clock_skew_seconds": abs(feed.skew_s),
        "clock_offset_seconds": feed.skew_s,
        "clock_error_seconds": feed.clock_error_s,
        "clock_off": int(feed.clock_off),
        "peppers_lacking": len(feed.peppers_lacking),
        "in_doubt_grants": feed.in_doubt[0],
        "in_doubt_mtok": feed.in_doubt[1],
        "in_doubt_seconds": feed.in_doubt[2],
        "journal_free_bytes": feed.look_at_disk(),
        "journal_full": int(feed.journal_full),
        "settled_records": settler.applied,
        "settle_batches": settler.batches,
        "settle_cpu_seconds": settler.cpu_ns / 1e9,
        "histograms": {
            "commit_seconds": [US_PER_S, list(COMMIT_US), recorder.commits.wire()],
            "settle_seconds": [US_PER_S, list(SETTLE_US), settler.times.wire()],
        },
        "open_attempts": len(recorder.attempts),
        "workers": len(recorder.workers),
        "requests_queued": recorder.queues.waiting,
        "requests_shed": recorder.queues.shed,
        "requests_queue_timed_out": recorder.queues.timed_out,
        "grant_wait_p50_seconds": _quantile(recorder.grants.waits_s, 50),
        "grant_wait_p99_seconds": _quantile(recorder.grants.waits_s, 99),
        "open_grants": len(grants),
        "granted_mtok": sum(bucket.amount - bucket.used for bucket in grants if bucket.terms.unit == "token"),
    }
    if feed.archive is not None:
        status |= {
            "archive_files": feed.archive.files,
            "archive_failures": feed.archive.failures,
            "archive_behind_seconds": feed.archive.behind_s,
        }
    path = settings.run_dir / "recorder.json"
    half = path.with_suffix(".new")
    half.write_text(json.dumps(status))
    half.replace(path)


def _quantile(values: Iterable[float], percent: int) -> float:
    found = sorted(values)
    return found[len(found) * percent // 100] if found else 0.0


def run(
    settings: Settings, listener: socket.socket, supervisor: int, proved: tuple[Peppers, VaultSecrets]
) -> int:
    """Record until told to end, or until the supervisor's end of the pipe is closed. Returns an exit code."""
    configure_logs(settings.log_level, settings.log_format, "recorder")
    # Long collections stop every commit; what lives long is frozen out of them.
    gc.set_threshold(50_000, 20, 100)
    # Its own hold on the embedded database: what is in the journal is settled even after the supervisor's death.
    with database(settings) as url:
        return uvloop.run(serve(settings, url, listener, supervisor, proved))
