"""Connection pools: one for each deployment, and one for the control plane."""

from collections.abc import Collection

from tokenworks.factory import DeploymentView
from tokenworks.gateway.http.upstream import Pool
from tokenworks.gateway.shared import Shared


class Pools:
    __slots__ = ("_of", "_shared", "control")

    def __init__(self, shared: Shared, control_path: str) -> None:
        settings = shared.settings
        self._shared = shared
        self._of: dict[DeploymentView, Pool] = {}
        self.control = Pool(
            None,
            shared.wheel,
            idle_max=16,
            connect_timeout_s=settings.upstream_connect_timeout_s,
            unix_path=control_path,
            memory=shared.memory,
            turns=shared.turns,
            decoded_max=settings.response_bytes_max,
        )

    def of(self, view: DeploymentView) -> Pool:
        pool = self._of.get(view)
        if pool is None:
            shared = self._shared
            pool = self._of[view] = Pool(
                view.deployment,
                shared.wheel,
                idle_max=shared.settings.upstream_idle_max,
                connect_timeout_s=shared.settings.upstream_connect_timeout_s,
                memory=shared.memory,
                turns=shared.turns,
                decoded_max=shared.settings.response_bytes_max,
            )
        return pool

    def keep(self, views: Collection[DeploymentView]) -> None:
        """Keep the pools of these deployments; connections to all others are closed when they are idle."""
        live = set(views)
        for view in [view for view in self._of if view not in live]:
            self._of.pop(view).close_idle()

    def count(self) -> tuple[int, int]:
        """(open connections to deployments, of them idle)"""
        pools = self._of.values()
        return sum([len(pool.open) for pool in pools]), sum([len(pool.idle) for pool in pools])
