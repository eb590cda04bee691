"""A worker's periodic work, its change to a new snapshot, its readiness, and its end."""

from pathlib import Path

from tokenworks.gateway.http.health import HealthCheck
from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request_log import RequestLog
from tokenworks.gateway.seen import write_seen
from tokenworks.gateway.series import Series
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.gateway.tracing import Tracer


class Upkeep:
    """`leaving_path`: a file that exists while the host drains. `series_path`, `seen_path`: files in which sums and observations of
    deployments outlive the process. `seen_before`: observations of an earlier worker on this host, by deployment.
    """

    def __init__(
        self, shared: Shared, pools: Pools, running: RunningRequests, request_log: RequestLog, series: Series
    ) -> None:
        self._shared = shared
        self._pools = pools
        self._running = running
        self._request_log = request_log
        self._series = series
        self._checked_s = 0.0
        self.leaving_path: Path | None = None
        self.seen_path: Path | None = None
        self.series_path: Path | None = None
        self.seen_before: dict[str, dict[str, object]] = {}

    def swap(self, snapshot: Snapshot, broken_credentials: frozenset[str]) -> None:
        """Use a new snapshot. Requests in flight keep the one that they began with."""
        shared = self._shared
        shared.snapshot = snapshot
        shared.heads_number += 1
        self._series.known((view.deployment.model, view.name) for view in snapshot.views)
        for view in snapshot.views:
            if view.name in self.seen_before:
                view.learn_from(self.seen_before.pop(view.name))
        shared.placement.set_views(snapshot.views, shared.loop.time())
        shared.broken_credentials = broken_credentials
        self._pools.keep(snapshot.views)

    def tick(self, connections_open: int) -> None:
        """Run once a second: time-outs, health checks, counters, heartbeat."""
        shared = self._shared
        now_s = shared.loop.time()
        shared.wheel.tick(int(now_s))
        shared.client.tick()
        self._look_whether_leaving()
        self._running.tick(now_s)
        self._check_health(now_s)
        self._count(now_s, connections_open)
        self._series.settle(shared.stats)
        shared.stats.beat()
        self._request_log.flush(now_s, room=not shared.journal_full)
        shared.stats.c["request_lines_left_out"] = self._request_log.left_out
        if shared.tracer is not None:
            shared.tracer.flush()
            self._count_traces(shared.tracer)
        if self.series_path is not None:
            self._series.keep(self.series_path)
        if self.seen_path is not None and shared.snapshot.views:
            write_seen(self.seen_path, shared.placement, now_s, shared.broken_credentials)

    def _check_health(self, now_s: float) -> None:
        shared = self._shared
        every_s = shared.settings.health_check_s
        if now_s - self._checked_s < every_s:
            return
        self._checked_s = now_s
        for view in shared.snapshot.views:
            if view.check_due(now_s, 6.0 * every_s):
                HealthCheck(shared, self._pools, view).run()

    def _count(self, now_s: float, connections_open: int) -> None:
        shared = self._shared
        counters, memory = shared.stats.c, shared.memory
        counters["connections_open"] = connections_open
        counters["memory_used_bytes"] = memory.used
        counters["memory_peak_bytes"] = memory.peak
        counters["memory_refused"] = memory.refused
        counters["upstream_open"], counters["upstream_idle"] = self._pools.count()
        counters["unacknowledged"] = shared.client.open_messages
        counters["deployments"] = len(shared.snapshot.views)
        counters["recorder_ready"] = int(shared.client.is_available)
        counters["snapshot_age_ms"] = int((now_s - shared.database_ok_s) * 1000)

    def _count_traces(self, tracer: Tracer) -> None:
        counters = self._shared.stats.c
        counters["traces_sent"], counters["traces_dropped"] = tracer.sent, tracer.dropped

    def not_ready(self) -> list[str]:
        """The reasons why this worker can't serve; empty if it can."""
        shared = self._shared
        reasons = []
        self._look_whether_leaving()
        if not shared.client.is_available or shared.client.hangs():
            reasons.append("the recorder does not answer")
        if not shared.snapshot.number:
            reasons.append("no snapshot yet")
        if shared.loop.time() - shared.database_ok_s > shared.settings.key_max_stale_s:
            reasons.append("the database has been away for too long")
        if shared.journal_full:
            reasons.append("the journal's disk is full, or too much of it is not settled")
        if shared.clock_off_s is not None:
            reasons.append(f"the host's clock is off by {shared.clock_off_s:.1f} s")
        if shared.keys.lacking:
            reasons.append(f"pepper-{shared.keys.lacking[-1]} of the works is not in secrets_dir here")
        if shared.draining:
            reasons.append("draining")
        return reasons

    def _look_whether_leaving(self) -> None:
        """Drain if the host drains: requests are still served, and each response asks its client to connect anew, to another host."""
        if not self._shared.draining and self.leaving_path is not None and self.leaving_path.exists():
            self._shared.draining = True

    @property
    def idle(self) -> bool:
        """True if no request is in flight and every record is on disk."""
        return not self._running.open and not self._shared.client.open_messages

    def close(self) -> None:
        """Write what was logged and counted to disk."""
        self._request_log.close(self._shared.loop.time())
        if self._shared.tracer is not None:
            self._shared.tracer.close()
        if self.series_path is not None:
            self._series.keep(self.series_path)
