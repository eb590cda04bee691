"""Active health checks of deployments that failed or are idle, so that no client's request has to find a failure."""

from tokenworks.factory import DeploymentView
from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.shared import Shared


class HealthCheck:
    """One check by `GET …/models`: any status below 500 is a success."""

    __slots__ = ("_pools", "_shared", "_view")

    def __init__(self, shared: Shared, pools: Pools, view: DeploymentView) -> None:
        self._shared = shared
        self._pools = pools
        self._view = view

    def run(self) -> None:
        pool = self._pools.of(self._view)
        connection = pool.take()
        if connection is not None:
            self._send(connection, "")
        else:
            pool.connect(self._send)

    def _send(self, connection: UpstreamConnection | None, reason: str) -> None:
        if connection is None:
            self._failed()
            return
        deployment = self._view.deployment
        view = self._view
        credentials = self._shared.snapshot.credentials
        secret: str | None = None
        for reference in deployment.references:
            secret = secret or credentials.get(reference)
        lines = view.auth_lines("models", secret).decode() if secret else ""
        text = f"GET {view.paths['models']} HTTP/1.1\r\nhost: {deployment.host}\r\n{lines}accept-encoding: identity\r\n\r\n"
        timeout_s = self._shared.settings.upstream_connect_timeout_s
        connection.begin(self, text.encode(), b"", timeout_s, timeout_s)

    def upstream_head(self, connection: UpstreamConnection) -> None:
        if connection.status >= 500:
            self._failed()
        else:
            self._view.succeeded(self._shared.loop.time())

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        """The list of models is ignored."""

    def upstream_end(self, connection: UpstreamConnection) -> None:
        """Nothing to do: the status is enough."""

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        if not connection.reused:
            self._failed()

    def _failed(self) -> None:
        self._view.failed(self._shared.loop.time())
