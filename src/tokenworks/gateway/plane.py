"""A worker's data plane: its parts are put together here."""

from collections.abc import Callable

from tokenworks.gateway.dispatch import Dispatch
from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request_log import LogFile, RequestLog
from tokenworks.gateway.series import Series
from tokenworks.gateway.shared import DataPlaneSettings, Shared
from tokenworks.gateway.stats import Stats
from tokenworks.gateway.upkeep import Upkeep
from tokenworks.kernel import Clock


class Plane:
    """`shared`: what the app wires (recorder, keys, tokenizer) and the host's state. `tick` is called once a second."""

    def __init__(
        self,
        settings: DataPlaneSettings,
        clock: Clock,
        stats: Stats,
        control_path: str,
        *,
        tls: bool,
        log_file: LogFile | None = None,
        certificate_words: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`log_file`: for the lines of requests; None: they go to the process's log."""
        self.shared = shared = Shared(settings, clock, stats)
        self.series = Series()
        pools = Pools(shared, control_path)
        request_log = RequestLog(settings.log_requests_ppm, log_file, clock.civil_ms)
        self.running = RunningRequests(shared, pools, request_log, self.series)
        self.upkeep = Upkeep(shared, pools, self.running, request_log, self.series)
        self.dispatch = Dispatch(
            shared,
            pools,
            self.running,
            tls=tls,
            not_ready=self.upkeep.not_ready,
            certificate_words=certificate_words,
        )

    def connection(self) -> ClientConnection:
        return ClientConnection(self.shared, self.dispatch)

    def tick(self) -> None:
        self.upkeep.tick(len(self.dispatch.connections))

    def drain(self) -> None:
        """Take no new connections, close idle ones, and close each other connection when its response is written."""
        self.shared.draining = True
        for connection in list(self.dispatch.connections):
            connection.close_if_idle()
