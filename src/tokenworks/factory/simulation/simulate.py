"""A simulated fleet: a trace of requests runs against engines, placed by the code that the gateway runs, or by another policy.

A policy knows what a gateway knows: its own requests in flight, and first tokens, some milliseconds late. The speeds and cache sizes
that are declared to it are wrong by a random part, and it learns.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final, Literal, NamedTuple, Protocol, get_args

from tokenworks.factory.model import Price
from tokenworks.factory.placing.placement import Placement
from tokenworks.factory.placing.prefixes import PrefixIndex
from tokenworks.factory.placing.request import Objective, PlacementRequest
from tokenworks.factory.placing.views import DeploymentView
from tokenworks.factory.service import make_deployment
from tokenworks.factory.simulation.engine import INF, Engine, EngineSpec, TraceRequest

PolicyName = Literal["predicted", "least_outstanding", "round_robin", "cache_aware"]
POLICIES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)
LATE_MS: Final = 50.0
RETRY_S: Final = 1.0
MACHINES_MAX: Final = 1024
# sglang's router: which share of a prompt must be cached for an engine to be chosen by its cache, and when load decides instead.
CACHE_THRESHOLD: Final = 0.5
BALANCE_ABS: Final = 32
BALANCE_REL: Final = 1.1


class PlacementPolicy(Protocol):
    """Which engine a request gets, and what the policy is told of the request afterwards."""

    def choose(
        self, ticket: int, request: TraceRequest, tried: Sequence[int], now_ms: float
    ) -> int | None: ...
    def first_token(self, ticket: int, engine: int, now_ms: float) -> None: ...
    def ended(self, ticket: int, engine: int, now_ms: float) -> None: ...
    def refused(self, ticket: int, engine: int, now_ms: float) -> None:
        """The engine is at its limit and refused the request; the policy sends no request there for some time."""
        ...


class LeastOutstanding:
    """The engine with the fewest requests in flight; of several the one that was used least recently."""

    def __init__(self, count: int) -> None:
        self.outstanding = [0] * count
        self._used = [0] * count
        self._turn = 0
        self._resting_until_ms = [0.0] * count

    def free(self, tried: Sequence[int], now_ms: float) -> list[int]:
        return [
            at
            for at in range(len(self.outstanding))
            if at not in tried and self._resting_until_ms[at] <= now_ms
        ]

    def choose(self, ticket: int, request: TraceRequest, tried: Sequence[int], now_ms: float) -> int | None:
        free = self.free(tried, now_ms)
        if not free:
            return None
        return self.take(min(free, key=lambda at: (self.outstanding[at], self._used[at])))

    def take(self, at: int) -> int:
        self._turn += 1
        self._used[at] = self._turn
        self.outstanding[at] += 1
        return at

    def first_token(self, ticket: int, engine: int, now_ms: float) -> None:
        pass

    def ended(self, ticket: int, engine: int, now_ms: float) -> None:
        self.outstanding[engine] -= 1

    def refused(self, ticket: int, engine: int, now_ms: float) -> None:
        self._resting_until_ms[engine] = now_ms + RETRY_S * 1000.0
        self.outstanding[engine] -= 1


class RoundRobin(LeastOutstanding):
    def choose(self, ticket: int, request: TraceRequest, tried: Sequence[int], now_ms: float) -> int | None:
        free = self.free(tried, now_ms)
        return self.take(min(free, key=lambda at: self._used[at])) if free else None


class CacheAware(LeastOutstanding):
    """As sglang's router does it: the engine with the longest cached prefix if that is more than a share of the prompt, else the engine
    with the least load; always the least load if the loads differ too much. Its tree of prefixes is not bounded.
    """

    def __init__(self, count: int, *, smallest_tree: bool = False) -> None:
        super().__init__(count)
        self._index = PrefixIndex()
        self._smallest_tree = smallest_tree
        for at in range(count):
            self._index.add_deployment(at, 1 << 40)

    def choose(self, ticket: int, request: TraceRequest, tried: Sequence[int], now_ms: float) -> int | None:
        free = self.free(tried, now_ms)
        if not free:
            return None
        loads = [self.outstanding[at] for at in free]
        least, most = min(loads), max(loads)
        at = free[loads.index(least)]
        if not (most - least > BALANCE_ABS and most > BALANCE_REL * least):
            matched = self._index.match(request.blocks)
            best = max((at for at in matched if at in free), key=lambda at: matched[at], default=None)
            if best is not None and matched[best] > CACHE_THRESHOLD * len(request.blocks):
                at = best
            elif self._smallest_tree:
                at = min(free, key=self._index.size)
        self._index.touch(at, request.blocks)
        return self.take(at)


class Predicted:
    """The gateway's own placement, with declared speeds and cache sizes that are wrong by up to `off`."""

    def __init__(
        self, specs: Sequence[EngineSpec], rnd: random.Random, off: float, objective: Objective = "latency"
    ) -> None:
        self._placement = Placement()
        self._objective = objective
        self._views = []
        for at, spec in enumerate(specs):
            deployment = make_deployment(
                name=f"engine-{at}", model="m", upstream_model="m", base_url="http://127.0.0.1:1", protocols=("chat",),
                allow_private=True, context_tokens=10**8, region=spec.region, round_trip_ms=int(spec.round_trip_ms),
                prefill_tokens_per_s=max(1, int(1000 / (spec.prefill_ms_per_token * rnd.uniform(1 - off, 1 + off)))),
                cache_blocks=max(1, int(spec.cache_blocks * rnd.uniform(1 - off, 1 + off))),
                price=Price(
                    fresh_input_nano=spec.input_nano, cached_input_nano=spec.cached_nano, output_nano=spec.output_nano
                ),
            )  # fmt: skip
            self._views.append(DeploymentView(deployment))
        self._placement.set_views(self._views)
        self._block_tokens = specs[0].block_tokens

    def choose(self, ticket: int, request: TraceRequest, tried: Sequence[int], now_ms: float) -> int | None:
        placed = PlacementRequest(
            request.input_tokens, request.output_tokens, request.blocks, self._block_tokens, self._objective
        )
        names = [self._views[at].name for at in tried]
        now_s = now_ms / 1000.0
        chosen = self._placement.choose(self._views, names, placed, now_s)
        if chosen is None or chosen.view.open(now_s):
            return None
        chosen.view.began(now_s)
        self._placement.sent(ticket, chosen, placed, now_s)
        return chosen.view.number

    def first_token(self, ticket: int, engine: int, now_ms: float) -> None:
        view = self._views[engine]
        view.succeeded(now_ms / 1000.0)
        self._placement.first_token(ticket, view, now_ms / 1000.0)

    def ended(self, ticket: int, engine: int, now_ms: float) -> None:
        self._views[engine].ended()

    def refused(self, ticket: int, engine: int, now_ms: float) -> None:
        view = self._views[engine]
        view.cool_down(now_ms / 1000.0, RETRY_S)
        self._placement.dropped(ticket, view)
        view.ended()


class Outcome(NamedTuple):
    """The results of each request, in the order of the trace, and of the fleet."""

    first_token_ms: list[float]
    end_to_end_ms: list[float]
    engines: list[int]
    output_tokens: int
    until_ms: float
    hit_share: float
    busy_ms: list[float]
    cost_nano: int
    energy_wh: float
    refusals: int

    @property
    def mean_first_token_s(self) -> float:
        return fmean(self.first_token_ms) / 1000.0

    @property
    def mean_end_to_end_s(self) -> float:
        return fmean(self.end_to_end_ms) / 1000.0

    def first_token_s(self, share: float) -> float:
        """The quantile of the time to first token."""
        ordered = sorted(self.first_token_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1000.0

    def in_time(self, limit_s: float) -> float:
        """The share of requests whose first token came within the limit."""
        return sum(ms <= limit_s * 1000.0 for ms in self.first_token_ms) / len(self.first_token_ms)

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / max(1.0, self.until_ms) * 1000.0


def make_policy(
    policy: PolicyName, specs: Sequence[EngineSpec], rnd: random.Random, off: float, objective: Objective
) -> PlacementPolicy:
    if policy == "predicted":
        return Predicted(specs, rnd, off, objective)
    if policy == "cache_aware":
        return CacheAware(len(specs))
    return (RoundRobin if policy == "round_robin" else LeastOutstanding)(len(specs))


# Kinds of events, with their arguments: (request), (engine, its version), (engine, request), (engine, request), (engine, request).
_ARRIVES, _ENGINE, _FIRST, _ENDED, _REACHES = range(5)


def simulate(
    trace: Sequence[TraceRequest],
    fleet: Sequence[EngineSpec],
    policy: PolicyName | Callable[[Sequence[EngineSpec]], PlacementPolicy] = "predicted",
    *,
    traffic: float = 1.0,
    seed: int = 0,
    off: float = 0.3,
    late_ms: float = LATE_MS,
    objective: Objective = "latency",
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Run a trace to its end. `traffic`: by which factor the requests come faster than in the trace.

    `off`: by how much at most, up or down, the declared speeds and cache sizes are wrong. `late_ms`: how late first tokens are seen.
    """
    specs = [spec for group in fleet for spec in [group] * group.count]
    rnd = random.Random(seed)
    placement_policy = (
        make_policy(policy, specs, rnd, off, objective) if isinstance(policy, str) else policy(specs)
    )
    run = _Run(trace, specs, placement_policy, traffic, late_ms)
    run.go(progress)
    return run.outcome()


class _Run:
    """A trace that runs through a fleet. Events are handled in the order of their times, and of their creation at the same time."""

    def __init__(
        self,
        trace: Sequence[TraceRequest],
        specs: Sequence[EngineSpec],
        policy: PlacementPolicy,
        traffic: float,
        late_ms: float,
    ) -> None:
        self._trace = trace
        self._specs = specs
        self._policy = policy
        self._traffic = traffic
        self._late_ms = late_ms
        self._engines = [Engine(spec) for spec in specs]
        self._first = [0.0] * len(trace)
        self._whole = [0.0] * len(trace)
        self._where = [-1] * len(trace)
        # By request: the engines that refused it.
        self._tried: dict[int, list[int]] = {}
        self._refusals = 0
        self._now_ms = 0.0
        self._cold = {at: spec.ready_at_s * 1000.0 for at, spec in enumerate(specs) if spec.ready_at_s}
        # (time, number, kind, argument, second argument): see the `_ARRIVES` … constants.
        self._events: list[tuple[float, int, int, int, int]] = [
            (request.at_ms / traffic, at, _ARRIVES, at, 0) for at, request in enumerate(trace)
        ]
        heapq.heapify(self._events)
        self._number = len(trace)

    def go(self, progress: Callable[[int], None] | None) -> None:
        done = 0
        while self._events:
            self._now_ms, _, kind, first, second = heapq.heappop(self._events)
            if kind == _ARRIVES:
                self._arrive(first)
            elif kind == _REACHES:
                self._reach(first, second)
            elif kind == _ENGINE:
                if second == self._engines[first].version:
                    self._engines[first].advance(self._now_ms)
                    self._take_results(first)
            elif kind == _FIRST:
                self._policy.first_token(second, first, self._now_ms)
            else:
                self._policy.ended(second, first, self._now_ms)
                done += 1
                if progress is not None and done % 1000 == 0:
                    progress(done)

    def _push(self, at_ms: float, kind: int, first: int, second: int = 0) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_ms, self._number, kind, first, second))

    def _arrive(self, ticket: int) -> None:
        """A request arrives at the gateway, which chooses an engine."""
        tried = self._tried.get(ticket, [])
        resting = [at for at, ready_ms in self._cold.items() if ready_ms > self._now_ms]
        at = self._policy.choose(ticket, self._trace[ticket], [*tried, *resting], self._now_ms)
        if at is None:
            # Every engine is at its limit or not ready: the request comes again later, as a client does after a Retry-After.
            self._tried.pop(ticket, None)
            self._push(self._now_ms + RETRY_S * 1000.0, _ARRIVES, ticket)
            return
        self._where[ticket] = at
        self._push(self._now_ms + self._specs[at].round_trip_ms / 2, _REACHES, at, ticket)

    def _reach(self, at: int, ticket: int) -> None:
        """A request arrives at its engine, which takes or refuses it."""
        engine = self._engines[at]
        limit = engine.spec.requests_max
        if limit is not None and engine.requests >= limit:
            self._refusals += 1
            self._policy.refused(ticket, at, self._now_ms)
            self._tried.setdefault(ticket, []).append(at)
            self._push(self._now_ms + engine.spec.round_trip_ms / 2, _ARRIVES, ticket)
            return
        engine.advance(self._now_ms)
        engine.add(ticket, self._trace[ticket])
        self._take_results(at)

    def _take_results(self, at: int) -> None:
        """Take the engine's results up to now, and schedule its next event."""
        engine, now_ms = self._engines[at], self._now_ms
        half_ms = engine.spec.round_trip_ms / 2
        for ticket in engine.take_first_tokens():
            self._first[ticket] = now_ms + half_ms - self._trace[ticket].at_ms / self._traffic
            self._push(now_ms + half_ms + self._late_ms, _FIRST, at, ticket)
        for ticket in engine.take_done():
            self._whole[ticket] = now_ms + half_ms - self._trace[ticket].at_ms / self._traffic
            self._push(now_ms + half_ms + self._late_ms, _ENDED, at, ticket)
        engine.version += 1
        next_ms = engine.next_ms()
        if next_ms < INF:
            self._push(max(now_ms, next_ms), _ENGINE, at, engine.version)

    def outcome(self) -> Outcome:
        trace, specs, engines, until_ms = self._trace, self._specs, self._engines, self._now_ms
        matched, seen = sum(e.matched_blocks for e in engines), sum(e.seen_blocks for e in engines)
        hours = until_ms / 3_600_000
        cost = sum(int(spec.hour_nano * hours) for spec in specs)
        for request, at in zip(trace, self._where, strict=True):
            cost += (
                request.input_tokens * specs[at].input_nano + request.output_tokens * specs[at].output_nano
            )
        # Cached input is charged at its own price.
        cost -= sum(
            e.cached_tokens * (s.input_nano - s.cached_nano) for e, s in zip(engines, specs, strict=True)
        )
        energy = sum(
            (e.busy_ms * s.busy_watts + (until_ms - e.busy_ms) * s.idle_watts) / 3_600_000
            for e, s in zip(engines, specs, strict=True)
        )
        return Outcome(
            self._first, self._whole, self._where, sum(request.output_tokens for request in trace), until_ms, matched / max(1, seen),
            [e.busy_ms for e in engines], cost, energy, self._refusals,
        )  # fmt: skip


def machines_for(
    trace: Sequence[TraceRequest],
    engine: EngineSpec,
    policy: PolicyName,
    share: float,
    limit_s: float,
    *,
    traffic: float = 1.0,
    seed: int = 0,
    most: int = MACHINES_MAX,
) -> int | None:
    """The smallest number of engines that give such a share of requests their first token in time; None if `most` are too few."""

    def enough(count: int) -> bool:
        fleet = [engine.model_copy(update={"count": count})]
        return simulate(trace, fleet, policy, traffic=traffic, seed=seed).in_time(limit_s) >= share

    high = 1
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def traffic_for(
    trace: Sequence[TraceRequest],
    fleet: Sequence[EngineSpec],
    policy: PolicyName,
    mean_s: float,
    *,
    seed: int = 0,
    steps: int = 9,
) -> float:
    """By which factor a trace's traffic may grow until the fleet's mean time to first token exceeds the limit."""
    low, high = 1 / 64, 64.0
    for _ in range(steps):
        middle = (low * high) ** 0.5
        outcome = simulate(trace, fleet, policy, traffic=middle, seed=seed)
        low, high = (middle, high) if outcome.mean_first_token_s <= mean_s else (low, middle)
    return low
