"""The log of placement decisions: a sample of all, and those that found no deployment, up to a number a second.

The outcome of a request is in its usage record, under the same id.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from tokenworks.factory import Candidate, DeploymentView, PlacementRequest
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()

# Limits of logged decisions without a deployment, in a second, and of a decision's candidates.
FAILURES_LOGGED_PER_S: Final = 10
CANDIDATES_LOGGED_MAX: Final = 20


class DecisionLog:
    __slots__ = ("_count", "_failures", "_second", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._count = 0
        self._second = 0
        self._failures = 0  # in this second

    def decided(
        self,
        request_id: str,
        model: str,
        views: Sequence[DeploymentView],
        native: int,
        tried: Sequence[str],
        placement_request: PlacementRequest,
        chosen: Candidate | None,
    ) -> None:
        """`views`: of all deployments of the model, the first `native` of which speak the client's protocol; `tried`: names of those that were tried before; `chosen`: None if none was found."""
        shared = self._shared
        every = shared.settings.decision_log_every
        self._count += 1
        if chosen is None:
            second = shared.wheel.now_s
            if second != self._second:
                self._second = second
                self._failures = 0
            self._failures += 1
            if self._failures > FAILURES_LOGGED_PER_S:
                return
        elif not every or self._count % every:
            return
        found = shared.placement.explain(views, tried, placement_request, shared.loop.time(), native)
        log.info(
            "placement.decision",
            request_id=request_id,
            model=model,
            chosen=None if chosen is None else chosen.view.name,
            objective=placement_request.objective,
            regions=placement_request.regions,
            tried=tried,
            candidates=[_shown(candidate) for candidate in found[:CANDIDATES_LOGGED_MAX]],
        )


def _shown(candidate: Candidate) -> dict[str, object]:
    if candidate.excluded:
        return {"deployment": candidate.view.name, "excluded": candidate.excluded}
    return {
        "deployment": candidate.view.name,
        "first_token_ms": round(candidate.first_token_ms),
        "wait_ms": round(candidate.wait_ms),
        "cached_blocks": candidate.matched_blocks,
        "cost_nano": candidate.cost_nano,
    }
