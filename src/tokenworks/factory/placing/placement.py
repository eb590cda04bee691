"""Which deployment gets a request.

Deployments that may not have the request are excluded first (health, residency, vendors, context). The rest get a score in
money: what the operator pays for the request, and what its time to first token is worth to the plan. The time is predicted from
the requests that wait there and from the part of the prompt that the deployment's cache does not have.

The score adds two costs of occupying a deployment. As the fleet fills up, work costs more than its own time, because later
requests wait for it; so prompts go rather to a deployment that has them cached. And a deployment whose cache other requests often
need costs more for a request that any deployment could read as fast.

Health is passive (a circuit breaker on observed results) and active (checks of deployments that failed or are idle). The module
depends on its own state and the time it is given alone, so the data plane, the simulator and the tests run the same code.
"""

import math
from collections.abc import Collection, Mapping
from typing import Final

from tokenworks.factory.placing.health import FAILURES_TO_OPEN
from tokenworks.factory.placing.prefixes import CACHE_BLOCKS_DEFAULT, PrefixIndex
from tokenworks.factory.placing.request import TRIVIAL_REQUEST, Objective, PlacementRequest, may_have
from tokenworks.factory.placing.views import Candidate, DeploymentView, Observation, Views, number_of

# Time constant of the measured load (the share of busy deployments), and the highest load that is assumed.
LOAD_TAU_S: Final = 20.0
LOAD_MAX: Final = 0.97
# Time constant of the measured demand for each deployment's cache, and what each request that needs the cache meanwhile is
# assumed to lose.
DEMAND_TAU_S: Final = 20.0
DEMAND_COST_MS: Final = 1000.0
# Exclusions are remembered for so many different sets of rules.
RULES_MAX: Final = 1_000
# An edge box is preferred while its predicted first token is at most so much later than elsewhere.
EDGE_FIRST_MS: Final = 500.0
# What a second of waiting is worth, in nano yuan: a yuan for `latency` and `quality`, a cent of a yuan for `balance`, a hundredth
# of a cent for `cost`.
_SECOND_NANO: Final[dict[Objective, int]] = {
    "latency": 1_000_000_000,
    "quality": 1_000_000_000,
    "balance": 10_000_000,
    "cost": 100_000,
}


class Placement:
    """The state behind every choice: what each deployment's cache may hold, and how busy the fleet is."""

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._views: list[DeploymentView] = []
        self._numbers: dict[str, int] = {}
        self._busy = 0
        self._load = 0.0
        self._load_s = 0.0
        self._count = 1
        # By deployment number: how often a second it has had the longest cached prefix. All values decay alike, so they are stored
        # divided by the decay since `_demand_s`.
        self._demand: dict[int, float] = {}
        self._demand_s = 0.0
        self._exclusions: dict[tuple[object, ...], dict[DeploymentView, str | None]] = {}

    def set_views(self, views: Views, now_s: float = 0.0) -> None:
        """Replace the fleet. What is known of a removed deployment's cache is forgotten; a new deployment of a model that others
        serve already begins with a slow start.
        """
        served = {view.deployment.model for view in self._views}
        # Requests in flight at a removed deployment go on, but no longer change the placement's state.
        for view in self._views:
            view.number = -1
        self._views = list(views)
        self._exclusions.clear()
        names = {view.name for view in views}
        for name in [name for name in self._numbers if name not in names]:
            number = self._numbers.pop(name)
            self._index.forget(number)
            self._demand.pop(number, None)
        taken = set(self._numbers.values())
        free = (number for number in range(len(views) + len(taken)) if number not in taken)
        for view in views:
            known = self._numbers.get(view.name)
            number = next(free) if known is None else known
            if known is None and view.deployment.model in served:
                view.begin_slowly(now_s)
            self._numbers[view.name] = view.number = number
            self._index.add_deployment(number, view.deployment.cache_blocks or CACHE_BLOCKS_DEFAULT)
        self._count = max(1, len(views))
        self._busy = sum(view.forecast.busy for view in views)

    @property
    def busy(self) -> int:
        """How many deployments have a request that waits for its first token."""
        return self._busy

    def seen(self, now_s: float) -> dict[str, dict[str, Observation]]:
        """By deployment name: what was observed of it and of the fleet, for another process. `restore` reads it."""
        self._follow_load(now_s)
        decay = self._decay(now_s)
        return {
            view.name: {
                **view.seen(now_s),
                "load": self._load,
                "wanted": self._demand.get(view.number, 0.0) * decay,
            }
            for view in self._views
        }

    def restore(self, seen: Mapping[str, Mapping[str, object]], now_s: float) -> None:
        """Take over what another process observed of the deployments that are set; what caches hold is not in it."""
        for view in self._views:
            state = seen.get(view.name)
            if state is not None:
                view.restore(state, now_s)
                self._demand[view.number] = number_of(state, "wanted")
                self._load = number_of(state, "load")
        self._demand_s = self._load_s = now_s
        self._busy = sum(view.forecast.busy for view in self._views)

    def _follow_load(self, now_s: float) -> None:
        passed_s = now_s - self._load_s
        if passed_s > 0.0:
            self._load += (1.0 - math.exp(-passed_s / LOAD_TAU_S)) * (self._busy / self._count - self._load)
            self._load_s = now_s

    def _decay(self, now_s: float) -> float:
        return math.exp(-max(0.0, now_s - self._demand_s) / DEMAND_TAU_S)

    def _count_demand(self, matched: dict[int, int], now_s: float) -> None:
        """Count a request for the caches that have most of its prompt."""
        decay = self._decay(now_s)
        if decay < 0.01:
            self._demand = {number: value * decay for number, value in self._demand.items()}
            self._demand_s, decay = now_s, 1.0
        most = max(matched.values())
        holders = [number for number, blocks in matched.items() if blocks == most]
        share = 1.0 / (DEMAND_TAU_S * decay * len(holders))
        for number in holders:
            self._demand[number] = self._demand.get(number, 0.0) + share

    def _exclusions_of(self, request: PlacementRequest) -> dict[DeploymentView, str | None]:
        """The results of `may_have` under the request's rules, filled in as they are needed: many subscribers share their rules."""
        key = request.regions, request.vendors, request.home
        found = self._exclusions.get(key)
        if found is None:
            if len(self._exclusions) >= RULES_MAX:
                self._exclusions.clear()
            found = self._exclusions[key] = {}
        return found

    def choose(
        self, views: Views, tried: Collection[str], request: PlacementRequest, now_s: float, first: int = 0
    ) -> Candidate | None:
        """The deployment with the best score among those that may have the request and whose circuit is closed; of equal scores
        the one that was used least recently. If none is left, the one whose cool-down ends first, or whose context seems too small:
        a wrong guess costs one request, refusing costs every request. Never a deployment whose upstream named a time
        (Retry-After) that is not over. None if no deployment may have the request.

        `first`: so many views at the beginning come before the others, which get a request only if none of the first can take it;
        0: all are equal.
        """
        if request is TRIVIAL_REQUEST and len(views) == 1:
            view = views[0]
            if view.trial or view.draining or now_s < view.retry_after_until_s or view.name in tried:
                return None
            return view.unscored
        if 0 < first < len(views):
            return (
                self._best(views[:first], tried, request, now_s)
                or self._best(views[first:], tried, request, now_s)
                or self._last_resort(views[:first], tried, request, now_s)
                or self._last_resort(views[first:], tried, request, now_s)
            )
        best = self._best(views, tried, request, now_s)
        return self._last_resort(views, tried, request, now_s) if best is None else best

    def _best(
        self, views: Views, tried: Collection[str], request: PlacementRequest, now_s: float
    ) -> Candidate | None:
        best = self._predict(views, tried, request, now_s, best_only=True)
        return best[-1] if best else None

    def _last_resort(
        self, views: Views, tried: Collection[str], request: PlacementRequest, now_s: float
    ) -> Candidate | None:
        """The deployment whose cool-down ends first, if no deployment can take the request."""
        cooling = [
            view
            for view in views
            if view.name not in tried
            and not view.trial
            and not view.draining
            and now_s >= view.retry_after_until_s
            and may_have(view.deployment, request) is None
        ]
        last_resort = min(cooling, key=lambda view: view.cool_until_s, default=None)
        return None if last_resort is None else last_resort.unscored

    def explain(
        self, views: Views, tried: Collection[str], request: PlacementRequest, now_s: float, first: int = 0
    ) -> list[Candidate]:
        """Every deployment with its prediction, or the reason why it is excluded; the best first, the excluded last. `first` as for
        `choose`.
        """
        found = self._predict(views, tried, request, now_s, best_only=False)
        if 0 < first < len(views):
            ahead = {view.name for view in views[:first]}
            return sorted(
                found,
                key=lambda c: (
                    c.excluded is not None, c.view.name not in ahead, c.score_nano, c.view.last_used_s,
                ),
            )  # fmt: skip
        return sorted(found, key=lambda c: (c.excluded is not None, c.score_nano, c.view.last_used_s))

    def _predict(
        self, views: Views, tried: Collection[str], request: PlacementRequest, now_s: float, *, best_only: bool
    ) -> list[Candidate]:  # fmt: skip
        """A candidate for every deployment. With `best_only` (a request is placed) only for each that beat those before it, so the
        best is the last one: the data plane makes no objects for the others.
        """
        self._follow_load(now_s)
        load = min(LOAD_MAX, self._load)
        # Work costs more than its own time, because later requests wait for it.
        crowding = 1.0 / (1.0 - load * load)
        matched = self._index.match(request.blocks) if request.blocks else {}
        missing = self._decay(now_s) * DEMAND_COST_MS / 1000.0
        demand = self._demand
        ms_nano = _SECOND_NANO[request.objective] / 1000.0
        restricted = request.regions is not None or request.vendors is not None or request.home is not None
        exclusions = self._exclusions_of(request) if restricted else {}
        now_ms, tokens, output_tokens = now_s * 1000.0, request.input_tokens, request.output_tokens
        found: list[Candidate] = []
        best_score, best_used_s = math.inf, 0.0
        for view in views:
            excluded = None
            if restricted:
                if view in exclusions:
                    excluded = exclusions[view]
                else:
                    excluded = exclusions[view] = may_have(view.deployment, request)
            if excluded is None:
                if tried and view.name in tried:
                    excluded = "tried: it was asked already"
                elif view.draining:
                    excluded = "draining: it takes nothing new"
                elif tokens > view.context_tokens:
                    excluded = f"context: about {tokens} tokens, it takes {view.context_tokens}"
                elif view.failures >= FAILURES_TO_OPEN and view.open(now_s):
                    excluded = f"health: it failed {view.failures} times, and rests"
                elif view.warm_from_s is not None:
                    excluded = view.too_early(now_s)
            if excluded is not None and best_only:
                continue
            forecast, number = view.forecast, view.number
            blocks = matched.get(number, 0)
            uncached = request.uncached(blocks) if blocks else tokens
            own_ms = forecast.ms_per_token * uncached
            wait_ms = forecast.wait_ms(now_ms) if forecast.waiting else 0.0
            latency_ms = forecast.latency_ms
            if view.outstanding:
                latency_ms += forecast.running_ms * forecast.running(view.outstanding)
            paid_nano = 0
            if view.costs:
                paid_nano = (
                    uncached * view.fresh_nano
                    + (tokens - uncached) * view.cached_nano
                    + output_tokens * view.output_nano
                )
            # The prompt's own time, the later requests that wait for it, and the requests that need this cache meanwhile.
            score = paid_nano + ms_nano * (
                latency_ms + wait_ms + own_ms * (crowding + demand.get(number, 0.0) * missing)
            )
            if view.edge_region is not None and request.edge_first:
                score -= ms_nano * EDGE_FIRST_MS
            if best_only:
                if score > best_score or (score == best_score and view.last_used_s >= best_used_s):
                    continue
                best_score, best_used_s = score, view.last_used_s
            found.append(Candidate(view, excluded, wait_ms, own_ms, latency_ms, blocks, paid_nano, score))
        if best_only and matched:
            self._count_demand(matched, now_s)
        return found

    # What becomes of a request.

    def sent(
        self,
        ticket: object,
        chosen: Candidate,
        request: PlacementRequest,
        now_s: float,
        *,
        streams: bool = True,
    ) -> None:
        """A request was sent to the chosen deployment. If it does not stream, its first token can't be observed."""
        if request is TRIVIAL_REQUEST:
            return
        view, forecast = chosen.view, chosen.view.forecast
        uncached = request.uncached(chosen.matched_blocks)
        if view.number >= 0 and not forecast.busy:
            self._busy += 1
        sure = streams and 2 * (request.input_tokens - uncached) <= request.input_tokens
        forecast.sent(
            ticket, now_s * 1000.0, uncached, sure=sure, running=forecast.running(view.outstanding - 1)
        )
        if request.blocks and view.number >= 0:
            self._index.touch(view.number, request.blocks)

    def first_token(self, ticket: object, view: DeploymentView, now_s: float) -> None:
        if view.forecast.busy:
            view.forecast.first_token(ticket, now_s * 1000.0)
            self._count_idle(view)

    def dropped(self, ticket: object, view: DeploymentView) -> None:
        """A request ended without a first token."""
        if view.forecast.busy:
            view.forecast.dropped(ticket)
            self._count_idle(view)

    def _count_idle(self, view: DeploymentView) -> None:
        """Count a deployment out that was busy, if nothing waits for a first token there any more."""
        if view.number >= 0 and not view.forecast.busy:
            self._busy -= 1
