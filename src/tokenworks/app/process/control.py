"""The control plane's process: an ordinary FastAPI app behind the gateway, the admin port, and the host's scheduled jobs."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import psycopg
import uvicorn
from fastapi import FastAPI
from psycopg_pool import ConnectionPool, PoolTimeout

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import anchor_clock, database
from tokenworks.app.database.waiting import ANSWER_S, KEEPALIVES, BoundedConnection, check_pooled
from tokenworks.app.http_app import make_api, make_staff_app
from tokenworks.app.logs import configure_logs
from tokenworks.app.ports.messages import code_sender
from tokenworks.app.process.host_metrics import HostMetrics, make_admin_app
from tokenworks.app.process.host_secrets import ProcessSecrets
from tokenworks.app.process.jobs import run_jobs
from tokenworks.app.process.renewing import Certificates
from tokenworks.app.process.span_exporter import SpanExporter
from tokenworks.app.process.staff_listener import certificates_of, public_door, server_config, staff_door
from tokenworks.app.settings import Settings
from tokenworks.gateway import Heartbeat
from tokenworks.kernel import AnchoredClock, SystemClock, Unavailable
from tokenworks.trust import Peppers, VaultSecrets, choose_issuing
from tokenworks.web import Services

SECRETS_S: Final = 1.0
LEAVE_S: Final = 0.25
BEAT_S: Final = 0.25
CONNECTIONS_MAX: Final = 10
CONNECTION_WAIT_S: Final = 3.0


def make_control_app(url: Callable[[], str], settings: Settings, secrets: ProcessSecrets) -> FastAPI:
    """The application that serves people and other systems on the public port, outside /v1."""
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
            # The database ends a statement whose request has timed out.
            "options": f"-c statement_timeout={int(ANSWER_S * 1000)}",
            **KEEPALIVES,
        },
        check=check_pooled,
    )

    @contextlib.contextmanager
    def open_services() -> Iterator[Services]:
        try:
            with pool.connection() as connection:
                yield make_works(settings, connection, clock, secrets.peppers, secrets.vault)
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise Unavailable("the database does not answer: try again in a moment") from error

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pool.open()
        await _anchor(pool, clock)
        upkeep = asyncio.create_task(_keep_up(pool, clock, secrets, settings.clock_check_s))
        try:
            yield
        finally:
            upkeep.cancel()
            await asyncio.to_thread(pool.close)

    app = make_api(
        open_services,
        code_sender(settings),
        settings.public_url,
        public_door(settings),
        is_dev=settings.environment == "dev",
    )
    app.router.lifespan_context = lifespan

    return app


async def _anchor(pool: ConnectionPool[BoundedConnection], clock: AnchoredClock) -> None:
    """Set the clock by the database's, so that a host whose own clock is off dates its rows right."""

    def read_database_clock() -> None:
        with pool.connection() as connection:
            anchor_clock(clock, connection)

    # While the database is away, the boot clock carries on from the last comparison.
    with contextlib.suppress(psycopg.Error, PoolTimeout):
        await asyncio.to_thread(read_database_clock)


async def _keep_up(
    pool: ConnectionPool[BoundedConnection], clock: AnchoredClock, secrets: ProcessSecrets, every_s: float
) -> None:
    """Load new files of secrets, follow which pepper is used, and compare the clock with the database's."""

    def settle() -> None:
        with pool.connection() as connection:
            choose_issuing(connection, secrets.peppers)

    anchored_s = time.monotonic()
    while True:
        await asyncio.sleep(SECRETS_S)
        with contextlib.suppress(psycopg.Error, PoolTimeout):
            await asyncio.to_thread(secrets.load_new)
            await asyncio.to_thread(settle)
            secrets.report()
        if time.monotonic() - anchored_s >= every_s:
            await _anchor(pool, clock)
            anchored_s = time.monotonic()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `serve` handles the signals of the process

    async def main_loop(self) -> None:
        """Wait for the end. uvicorn's own loop wakes ten times a second for a date header that is switched off here."""
        while not self.should_exit:
            await asyncio.sleep(LEAVE_S)


async def serve(
    settings: Settings,
    url: str,
    control: socket.socket,
    admin: socket.socket,
    staff: socket.socket | None,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
    *,
    may_change_history: bool,
) -> None:
    loop = asyncio.get_running_loop()

    servers = []
    secrets = ProcessSecrets(settings.secrets, settings.run_dir, "control", *proved)
    exporter = SpanExporter(settings) if settings.otlp_endpoint and settings.otlp_sample_ppm else None
    metrics = HostMetrics(settings, exporter, may_change_history=may_change_history)
    public = make_control_app(lambda: url, settings, secrets)
    for app in (public, make_admin_app(metrics)):
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, server_header=False, date_header=False, limit_concurrency=1000,
            timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        servers.append(_Server(config))
    certificates = certificates_of(settings) if staff is not None else None
    if staff is not None:
        served = make_staff_app(public.state.open_services, staff_door(settings), settings.staff_url)
        servers.append(_Server(server_config(served, settings, certificates)))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    def supervisor_gone() -> None:
        loop.remove_reader(supervisor)
        stop()

    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop)
    loop.add_reader(supervisor, supervisor_gone)
    if exporter is not None:
        exporter.start()
    jobs = loop.create_task(run_jobs(settings, url, secrets))
    beating = loop.create_task(_beat(settings, servers))
    renewing = loop.create_task(_renew(certificates))
    sockets = [sock for sock in (control, admin, staff) if sock is not None]
    await asyncio.gather(
        *(server.serve(sockets=[sock]) for server, sock in zip(servers, sockets, strict=True))
    )
    for task in (jobs, beating, renewing):
        task.cancel()
    if exporter is not None:
        await asyncio.to_thread(exporter.stop)


async def _renew(certificates: Certificates | None) -> None:
    """Load a new certificate of the staff port within a second."""
    while certificates is not None:
        await asyncio.sleep(SECRETS_S)
        await asyncio.to_thread(certificates.load_changed)


async def _beat(settings: Settings, servers: list[_Server]) -> None:
    """Beat from the moment on at which all ports are served."""
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
    staff: socket.socket | None,
    supervisor: int,
    proved: tuple[Peppers, VaultSecrets],
    *,
    may_change_history: bool,
) -> None:
    """Serve all ports until told to end, or until the supervisor's end of the pipe is closed."""
    configure_logs(settings.log_level, settings.log_format, "control")
    with database(settings) as url:
        asyncio.run(
            serve(
                settings,
                url,
                control,
                admin,
                staff,
                supervisor,
                proved,
                may_change_history=may_change_history,
            )
        )
