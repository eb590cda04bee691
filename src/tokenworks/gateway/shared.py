"""State that all requests of a worker share: settings, clock, counters, caches, and the state of the host.

Everything here lives as long as the worker. The app sets `client`, `keys` and `counter` before the first request.
"""

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from tokenworks.catalog import Weights
from tokenworks.charging import DEPLOYMENT_PAUSE, DeploymentPause, RecorderClient, Slices
from tokenworks.factory import CredentialSlot, DeploymentView, Placement, RetryBudget
from tokenworks.gateway.counting import TokenizerClient
from tokenworks.gateway.ids import IdSource
from tokenworks.gateway.keys import KeyCache
from tokenworks.gateway.lag import LoopLag
from tokenworks.gateway.memory import Budget
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.links import LinkCheck
from tokenworks.gateway.risk import LossBudgets
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.gateway.stats import Stats
from tokenworks.gateway.tracing import Tracer
from tokenworks.gateway.turns import Turns
from tokenworks.gateway.wheel import Wheel
from tokenworks.kernel import Clock


class DataPlaneSettings(Protocol):
    """The settings of the data plane; `tokenworks.app.settings` documents each."""

    header_bytes_max: int
    header_count_max: int
    body_bytes_max: int
    control_body_bytes_max: int
    memory_bytes_max: int
    memory_address_percent: int
    cors_origins: str
    response_bytes_max: int
    event_bytes_max: int
    write_buffer_bytes: int
    connections_max: int
    control_connections_max: int
    requests_max: int
    key_requests_max: int
    upstream_idle_max: int
    header_timeout_s: int
    body_timeout_s: int
    idle_timeout_s: int
    write_timeout_s: int
    upstream_connect_timeout_s: int
    upstream_first_byte_timeout_s: int
    upstream_idle_timeout_s: int
    request_timeout_s: int
    attempts_max: int
    retries_per_s: int
    decision_log_every: int
    failover_patience_s: int
    queue_wait_s: int
    flex_deadline_s: int
    filing_required: bool
    health_check_s: int
    stream_hold_tokens: int
    progress_tokens: int
    key_max_stale_s: int
    key_abandons_per_min: int
    operator_loss_budget_tokens: int
    drain_s: int
    drain_tokens: int
    log_requests_ppm: int
    idempotency_hours: int
    cache_age_max_s: int
    replay_answer_bytes_max: int
    stored_response_days: int
    content_log_days: int
    content_log_entry_bytes_max: int

    @property
    def proxy_networks(self) -> "tuple[IPv4Network | IPv6Network, ...]": ...


def _renews_nothing(_reference: str) -> None:
    """Credentials are not read again where the app does not wire it."""


class Shared:
    """A worker's state that belongs to no single request."""

    def __init__(self, settings: DataPlaneSettings, clock: Clock, stats: Stats) -> None:
        self.settings = settings
        self.clock = clock
        self.stats = stats
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(int(self.loop.time()))
        self.ids = IdSource(clock.civil_ms)
        self.snapshot = Snapshot(0, (), {}, {}, {})
        self.slices = Slices(self.rate)
        self.client: RecorderClient
        self.keys: KeyCache
        self.counter: TokenizerClient
        self.tracer: Tracer | None = None  # None: no request is traced
        self.memory = Budget(settings.memory_bytes_max, settings.memory_address_percent)
        self.lag = LoopLag(stats)
        self.turns = Turns()
        self.risk = LossBudgets(settings.operator_loss_budget_tokens, lambda: clock.civil_ms() / 1000)
        self.links = LinkCheck(self.loop)
        self.placement = Placement()
        self.retries = RetryBudget(settings.retries_per_s)
        self.broken_credentials: frozenset[str] = frozenset()
        # Changes with the snapshot and with each credential: heads that were made before are made anew.
        self.heads_number = 0
        # Reads a credential again that an upstream refused; the app sets it.
        self.renew_credential: Callable[[str], None] = _renews_nothing
        self.draining = False
        self.retiring = False  # the host's other workers take new connections
        self.cutting = False  # the time to drain is over: no attempt begins any more
        self.journal_full = False
        self.clock_off_s: float | None = None  # the error of the host's clock if above `clock_skew_max_s`
        self.database_ok_s = self.loop.time()

    def rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        """(model class, weights) in the present snapshot."""
        return self.snapshot.rate(rate_version, model)

    def pause_deployment(self, view: DeploymentView, seconds: float) -> None:
        """An upstream named a time: until then no worker of this host sends it a request. Of a deployment with several credentials
        the times of the credentials are shared (`pause_credential`); it rests while all of them do.
        """
        now_s = self.loop.time()
        view.rest(now_s, seconds)
        if view.credentials is not None:
            return
        self.client.request(
            DEPLOYMENT_PAUSE, DeploymentPause(view.name, view.retry_after_until_s), lambda _told: None
        )

    def pause_credential(self, slot: CredentialSlot) -> None:
        """An upstream named a time for one credential: until then no worker of this host takes it."""
        self.client.request(
            DEPLOYMENT_PAUSE, DeploymentPause(slot.name, slot.rests_until_s), lambda _told: None
        )

    def apply_pauses(self, until_s: Mapping[str, float]) -> None:
        """Times that upstreams named to workers of this host, by deployment and by credential (`CredentialSlot.name`), in monotonic
        seconds of the host.
        """
        now_s = self.loop.time()
        for view in self.snapshot.views:
            if view.credentials is not None:
                view.credentials.apply_pauses(until_s, now_s)
                resting_s = view.credentials.resting_s(now_s, self.snapshot.has_credential)
                if resting_s > view.resting_s(now_s):
                    view.rest(now_s, resting_s)
                continue
            left_s = until_s.get(view.name, 0.0) - now_s
            if left_s > view.resting_s(now_s):
                view.rest(now_s, left_s)

    def use_credentials(self, changed: frozenset[str], broken: frozenset[str]) -> None:
        """Take over credentials that were read. `changed`: the references of those that are not what they were; a new one begins
        without the rests of the one before. `broken`: deployments without a credential that can be used.
        """
        self.broken_credentials = broken
        if not changed:
            return
        self.heads_number += 1
        for view in self.snapshot.views:
            if view.credentials is not None and not changed.isdisjoint(view.deployment.references):
                for slot in view.credentials.slots:
                    if slot.reference in changed:
                        slot.begin_anew()
                view.end_rest(self.loop.time())

    def count_refusal(self, refusal: Refusal) -> None:
        name = f"refused_{refusal.status}"
        counters = self.stats.c
        counters[name if name in counters else "refused_other"] += 1
