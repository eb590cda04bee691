"""A worker process: one event loop, one data plane."""

import asyncio
import fcntl
import gc
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Final

import structlog
import uvloop
from msgspec import Raw

from tokenworks.app.logs import configure_logs, log_suppressed
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.process.host_secrets import ProcessSecrets
from tokenworks.app.process.renewing import Certificates, Credentials
from tokenworks.app.process.span_exporter import SOCKET_FILE
from tokenworks.app.settings import Settings
from tokenworks.charging import (
    BLOCKED_KEYS,
    CLOCK_OFFSET,
    DATABASE_ALIVE,
    JOURNAL_SPACE,
    KEYS,
    LOSSY_ACCOUNTS,
    MISSING_PEPPERS,
    PAUSED_DEPLOYMENTS,
    SNAPSHOT,
    PublishedSnapshot,
    RecorderClient,
)
from tokenworks.gateway import (
    KeyCache,
    Plane,
    Stats,
    TokenizerClient,
    Tracer,
    file_of,
    read_seen,
    snapshot_from_wire,
    warm,
)
from tokenworks.kernel import AnchoredClock, SystemClock, uuid7
from tokenworks.trust import Peppers

log = structlog.get_logger()

EXIT_FENCED: Final = 71
TICK_S: Final = 1.0
# After the time to drain: for the records of streams that are cut, and for the last bytes to reach their clients.
CUT_S: Final = 3.0
# The first request of a connection that was just accepted may still be on its way.
RETIRE_GRACE_S_MIN: Final = 1.0
# Observations of deployments that are older than this are not used.
SEEN_FOR_S: Final = 3600.0


class Worker:
    def __init__(self, settings: Settings, number: int, supervisor: int, peppers: Peppers) -> None:
        self.settings = settings
        self.worker_id = uuid7().hex
        self.supervisor = supervisor
        self.loop = asyncio.get_running_loop()
        self.clock = clock = AnchoredClock(SystemClock(settings.clock_shift_s))
        self.stats = Stats(settings.run_dir / f"worker-{number}.stats", os.getpid())
        self.certificates: Certificates | None = None
        self.plane = plane = Plane(
            settings,
            clock,
            self.stats,
            str(settings.run_dir / "control.sock"),
            tls=settings.tls_key is not None,
            log_file=file_of(settings.log, number, settings.log_requests_bytes),
            certificate_words=self._certificate_words,
        )
        self.credentials = Credentials(settings.secrets)
        self.secrets = ProcessSecrets(settings.secrets, settings.run_dir, f"worker-{number}", peppers, None)
        upkeep = plane.upkeep
        upkeep.leaving_path = settings.leaving
        upkeep.series_path = series = settings.run_dir / f"worker-{number}.series"
        if series.exists():
            # Sums of the worker before this one in the same slot: an exported counter never falls.
            plane.series.add(series.read_bytes())
        upkeep.seen_path = settings.run_dir / f"worker-{number}.places"
        # Observations of earlier workers: a new worker begins with what they knew of the deployments.
        for states in read_seen(settings.run_dir, SEEN_FOR_S).values():
            upkeep.seen_before = states
        self.shared = shared = plane.shared
        shared.renew_credential = self._renew_credential
        if settings.otlp_endpoint and settings.otlp_sample_ppm:
            shared.tracer = Tracer(settings.otlp_sample_ppm, str(settings.run_dir / SOCKET_FILE))
        self.lock = self._lock(settings.run_dir / "workers")
        shared.client = RecorderClient(
            str(settings.run_dir / "recorder.sock"),
            self.worker_id,
            shared.slices,
            clock,
            answer_wait_s=settings.recorder_wait_s,
            on_publish=self._published,
            on_die=self._fenced,
        )
        shared.counter = TokenizerClient(
            str(settings.run_dir / "tokenizer.sock"),
            queue_max=settings.tokenize_queue_max,
            timeout_s=settings.tokenize_timeout_s,
            counters=self.stats.c,
        )
        shared.keys = KeyCache(
            self.secrets.peppers,
            lambda macs, answered: shared.client.request(KEYS, macs, answered),
            settings.key_cache_max,
            settings.key_lookups_per_s,
            clock.civil_ms,
        )
        self.stop = asyncio.Event()
        self.retired = asyncio.Event()
        warm()

    def _lock(self, folder: Path) -> int:
        """Take a lock that is held as long as this process lives: by it a new recorder knows which workers are gone."""
        folder.mkdir(mode=0o700, exist_ok=True)
        file = os.open(folder / f"{self.worker_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _fenced(self) -> None:
        log.error("worker.fenced")
        os._exit(EXIT_FENCED)

    def _published(self, name: str, content: Raw) -> None:
        shared = self.shared
        if name == DATABASE_ALIVE.name:
            changed = DATABASE_ALIVE.decode(content)
            shared.database_ok_s = self.loop.time()
            for mac in changed.keys:
                shared.keys.forget(bytes.fromhex(mac))
            for account_id in changed.accounts:
                shared.keys.forget_account(account_id)
                shared.slices.drop_empty(account_id)
        elif name == BLOCKED_KEYS.name:
            shared.keys.block(frozenset(BLOCKED_KEYS.decode(content).keys))
        elif name == MISSING_PEPPERS.name:
            shared.keys.lacking = tuple(MISSING_PEPPERS.decode(content).lacking)
        elif name == CLOCK_OFFSET.name:
            told = CLOCK_OFFSET.decode(content)
            self.clock.follow(told.offset_ns, told.error_ns)
            shared.clock_off_s = told.off_s
        elif name == PAUSED_DEPLOYMENTS.name:
            shared.apply_pauses(PAUSED_DEPLOYMENTS.decode(content).until_s)
        elif name == JOURNAL_SPACE.name:
            shared.journal_full = JOURNAL_SPACE.decode(content).full
        elif name == LOSSY_ACCOUNTS.name:
            shared.risk.lossy = frozenset(LOSSY_ACCOUNTS.decode(content).accounts)
        elif name == SNAPSHOT.name:
            published = SNAPSHOT.decode(content)
            shared.keys.foreign = published.foreign_keys
            snapshot = snapshot_from_wire(published, {}, shared.snapshot)
            found = self.credentials.read(snapshot)
            self.plane.upkeep.swap(snapshot, found.broken)
            shared.use_credentials(found.changed, found.broken)
            named = {place.deployment.tokenizer for place in snapshot.views}
            shared.counter.load(frozenset(name for name in named if name is not None))
            gc.collect()
            gc.freeze()

    def _renew_credential(self, reference: str) -> None:
        """An upstream refused a credential: it may have been replaced since it was read."""
        if self.credentials.renew(self.shared.snapshot, reference):
            self.shared.use_credentials(frozenset({reference}), self.shared.broken_credentials)

    def _certificates(self) -> Certificates | None:
        if self.settings.tls_certificate is None or self.settings.tls_key is None:
            return None
        return Certificates(self.settings.tls_certificate, self.settings.tls_key)

    def _certificate_words(self) -> str | None:
        return None if self.certificates is None else self.certificates.words(self.clock.now())

    async def run(self, listener: socket.socket) -> None:
        plane, shared = self.plane, self.shared
        for sig in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(sig, self.stop.set)
        self.loop.add_signal_handler(RETIRE, self.retired.set)
        self.loop.add_reader(self.supervisor, self._supervisor_gone)
        shared.client.connect()
        self.stats.beat()
        self.certificates = certificates = self._certificates()
        ticking = self.loop.create_task(self._tick(certificates))
        # Connections wait in the queue of the socket until this worker can answer them.
        while not (shared.client.ready and shared.snapshot.number) and not self.stop.is_set():
            await asyncio.sleep(0.01)
        server = await self.loop.create_server(
            plane.connection,
            sock=listener,
            ssl=None if certificates is None else certificates.context,
            backlog=4096,
        )
        # `/readyz` is right at once, not only after the next tick.
        plane.tick()
        shared.lag.start()
        retiring = self.loop.create_task(self._retire(server))
        await self.stop.wait()
        retiring.cancel()
        server.close()
        plane.drain()
        deadline_s = self.loop.time() + self.settings.drain_s
        while not plane.upkeep.idle and self.loop.time() < deadline_s:
            await asyncio.sleep(0.02)
        await self._cut()
        plane.upkeep.close()
        shared.client.close()
        shared.counter.close()
        shared.lag.stop()
        ticking.cancel()

    async def _retire(self, server: asyncio.Server) -> None:
        """Stop listening, since other workers of this host take new connections. Each open connection gets one more answer, with the
        request to connect again; after the grace time this worker ends as on SIGTERM. The host stays ready.
        """
        await self.retired.wait()
        server.close()
        self.shared.retiring = True
        await asyncio.sleep(max(self.settings.drain_grace_s, RETIRE_GRACE_S_MIN))
        self.stop.set()

    async def _cut(self) -> None:
        """End the running requests in protocol: an error event and the last chunk, each after its record is durable.

        A connection is aborted only where its client reads nothing, or where its request has not arrived completely.
        """
        plane = self.plane
        self.shared.cutting = True
        requests = plane.running.cut()
        if requests:
            log.warning("worker.cuts", requests=requests)
        deadline_s = self.loop.time() + CUT_S
        while not plane.upkeep.idle and self.loop.time() < deadline_s:
            await asyncio.sleep(0.02)
        while plane.dispatch.connections and self.loop.time() < deadline_s:
            await asyncio.sleep(0.02)
        for connection in list(plane.dispatch.connections):
            connection.abort()

    def _supervisor_gone(self) -> None:
        self.loop.remove_reader(self.supervisor)
        self.stop.set()

    async def _tick(self, certificates: Certificates | None) -> None:
        shared, counters = self.shared, self.stats.c
        while True:
            await asyncio.sleep(TICK_S)
            if certificates is not None:
                certificates.load_changed()
                counters["certificate_expires_s"] = int(certificates.expires_at.timestamp())
                counters["certificate_not_loaded"] = int(certificates.failed is not None)
            if self.secrets.load_new():
                shared.keys.set_peppers(self.secrets.peppers)
            if self.credentials.changed():
                found = self.credentials.read(shared.snapshot)
                shared.use_credentials(found.changed, found.broken)
            self.plane.tick()
            log_suppressed()


async def rehearse(settings: Settings, snapshot: PublishedSnapshot) -> None:
    """Make the parts of a worker, without a slot in the host. Raises the error with which a worker would fail to start."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Stats(Path(folder) / "worker.stats", os.getpid())
        clock = AnchoredClock(SystemClock(settings.clock_shift_s))
        plane = Plane(settings, clock, stats, "", tls=settings.tls_key is not None)
        made = snapshot_from_wire(snapshot, {}, plane.shared.snapshot)
        plane.upkeep.swap(made, Credentials(settings.secrets).read(made).broken)
        stats.beat()


async def serve(
    settings: Settings, number: int, listener: socket.socket, supervisor: int, peppers: Peppers
) -> None:
    await Worker(settings, number, supervisor, peppers).run(listener)


def run(settings: Settings, number: int, listener: socket.socket, supervisor: int, peppers: Peppers) -> None:
    """Serve until told to end, or until the supervisor's end of the pipe is closed."""
    configure_logs(settings.log_level, settings.log_format, f"worker-{number}")
    # A full garbage collection stops all streams; objects that live long are frozen out of it.
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(serve(settings, number, listener, supervisor, peppers))
