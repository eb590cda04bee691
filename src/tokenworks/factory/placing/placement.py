"""Which deployment gets a request.

First who may not have it (health, residency, vendors, context), then a score in money: what the operator pays for the request
there, and what its time to first token is worth to the plan. The time is predicted: what waits at the place, and the part of
the prompt that its cache does not have. As the places fill up, work costs more than its own time, since what comes after has
to wait for it: prompts then go rather to where they are cached. And a place whose cache others often come for is not the
first choice for what could be read anywhere.

Health is passive (a circuit breaker on what was observed) and active (checks of those that failed or idle). Pure on its own
state and the time it is given, so that the data plane, the simulator and a test run the same code.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

from tokenworks.factory.facts.profiles import profile_of
from tokenworks.factory.model import Deployment
from tokenworks.factory.placing.forecast import Forecast
from tokenworks.factory.placing.health import FAILURES_TO_OPEN, Health
from tokenworks.factory.placing.prefixes import CACHE_BLOCKS_DEFAULT, PrefixIndex

# How fast the share of busy places is followed, and the most that it is believed to be.
LOAD_TAU_S: Final = 20.0
LOAD_MAX: Final = 0.97
# How fast it is followed which places' caches are asked for, and what each of those who come meanwhile is thought to lose.
WANTED_TAU_S: Final = 20.0
WANTED_COST_MS: Final = 1000.0
# Of so many different rules it is remembered which places they leave.
RULES_MAX: Final = 1_000
# An edge box is first as long as its first token is not thought to come so much later than elsewhere.
EDGE_FIRST_MS: Final = 500.0
Objective = Literal["latency", "balance", "cost", "quality"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)
# What a second of waiting is worth, in nano yuan: a cent of a yuan in `balance`, a yuan and a hundredth of a cent beside.
_SECOND_NANO: Final[dict[Objective, int]] = {
    "latency": 1_000_000_000,
    "quality": 1_000_000_000,
    "balance": 10_000_000,
    "cost": 100_000,
}


class PlacementRequest(NamedTuple):
    """What placement knows of a request. `blocks` are the hashes of its prompt's beginning, each of so many tokens."""

    input_tokens: int
    output_tokens: int
    blocks: Sequence[int] = ()
    block_tokens: float = 0.0
    objective: Objective = "latency"
    # Where its data may go, as region prefixes (`cn` allows `cn-sh`), and who may see it; None: anywhere, anybody.
    regions: tuple[str, ...] | None = None
    vendors: frozenset[str] | None = None
    # The subscriber's home region: an edge box there is first, and one elsewhere is not for him.
    home: str | None = None
    edge_first: bool = True

    def uncached(self, blocks: int) -> int:
        """Tokens to compute where so many blocks are cached: at least the last one."""
        return max(1, self.input_tokens - int(blocks * self.block_tokens))


# Where there is one place and no rule, there is nothing to foresee and nothing to learn.
TRIVIAL_REQUEST: Final = PlacementRequest(1, 1)


class DeploymentView(Health):
    """One deployment as a worker sees it."""

    __slots__ = (
        "cached_nano",
        "context_tokens",
        "costs",
        "deployment",
        "draining",
        "edge_region",
        "forecast",
        "fresh_nano",
        "last_used_s",
        "name",
        "number",
        "output_nano",
        "profile",
        "unscored",
    )

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self.name = deployment.name
        self.declare(deployment)
        self.number = -1
        self.unscored = Candidate(self, None, 0.0, 0.0, 0.0, 0, 0, 0.0)
        self.last_used_s = 0.0
        self.forecast = Forecast(
            deployment.round_trip_ms,
            1000.0 / deployment.prefill_tokens_per_s if deployment.prefill_tokens_per_s else None,
        )

    def declare(self, deployment: Deployment) -> None:
        """What is said of it, now or anew; what was seen of it stays."""
        self.deployment = deployment
        self.profile = profile_of(deployment.profile)
        self.draining = deployment.draining
        # An edge box is for those who are near it, where it says where it is.
        self.edge_region = (deployment.region or "") if deployment.kind == "edge" else None
        self.context_tokens = deployment.context_tokens
        # What a token more costs the operator: nothing where capacity is paid for anyway.
        price = deployment.price
        fresh = price.fresh_input_nano or 0
        cached = price.cached_input_nano if price.cached_input_nano is not None else fresh
        paid = (0, 0, 0) if deployment.committed else (fresh, cached, price.output_nano or 0)
        self.fresh_nano, self.cached_nano, self.output_nano = paid
        self.costs = any(paid)

    def began(self, now_s: float) -> None:
        self.last_used_s = now_s
        super().began(now_s)

    def check_due(self, now_s: float, idle_s: float) -> bool:
        """True if an active check should ask the place: it failed and its rest is over, or it idles for longer than `idle_s`."""
        if now_s < self.retry_after_until_s:
            return False
        return (self.failures > 0 and not self.open(now_s)) or now_s - self.last_used_s > idle_s

    def seen(self, now_s: float) -> dict[str, float | int | None]:
        """What was seen of it, for another process: what is learned, what waits, how it is. `restore` takes it."""
        forecast = self.forecast
        return {
            "latency_ms": forecast.latency_ms,
            "ms_per_token": forecast.ms_per_token,
            "running_ms": forecast.running_ms,
            "answers": forecast.answers,
            "wait_ms": forecast.wait_ms(now_s * 1000.0),
            "outstanding": self.outstanding,
            "failures": self.failures,
            "rests_s": round(max(0.0, self.cool_until_s - now_s), 1) if self.open(now_s) else 0,
            "takes": self.takes(now_s),
            # What decides between equals, and whether anything is sent at all.
            "waiting": forecast.waiting,
            "idle_s": now_s - self.last_used_s,
            "cool_s": self.cool_until_s - now_s,
            "named_s": self.retry_after_until_s - now_s,
            "warm_s": None if self.warm_from_s is None else now_s - self.warm_from_s,
            "trial": self.trial,
        }

    def restore(self, seen: Mapping[str, Any], now_s: float) -> None:
        """As another process saw it. What it served is not this one's, but waits all the same."""
        self.learn_from(seen)
        self.outstanding = int(seen["outstanding"])
        self.failures = int(seen["failures"])
        self.last_used_s = now_s - float(seen["idle_s"])
        self.cool_until_s = now_s + float(seen["cool_s"])
        self.retry_after_until_s = now_s + float(seen["named_s"])
        self.warm_from_s = None if seen["warm_s"] is None else now_s - float(seen["warm_s"])
        self.trial = bool(seen["trial"])
        for number in range(int(seen["waiting"])):
            own_ms = 0.0 if number else float(seen["wait_ms"])
            self.forecast.sent(f"before {number}", now_s * 1000.0, 0, sure=False, own_ms=own_ms)

    def learn_from(self, seen: Mapping[str, Any]) -> None:
        """How far away and how fast it is, where nothing was seen of it here."""
        self.forecast.begin_with(
            float(seen["latency_ms"]),
            float(seen["ms_per_token"]),
            float(seen["running_ms"]),
            int(seen["answers"]),
        )

    def too_early(self, now_s: float) -> str | None:
        """Why one request more is too much while it begins slowly."""
        most = self.takes(now_s)
        if most is None or self.outstanding < most:
            return None
        return f"slow start: it takes {most} at once for now"


Views = Sequence[DeploymentView]


class Candidate(NamedTuple):
    """A place and what is foreseen of a request there; `excluded` says why it may not have it."""

    view: DeploymentView
    excluded: str | None
    wait_ms: float
    own_ms: float
    latency_ms: float
    matched_blocks: int
    cost_nano: int
    score_nano: float

    @property
    def first_token_ms(self) -> float:
        return self.latency_ms + self.wait_ms + self.own_ms


def may_have(deployment: Deployment, ask: PlacementRequest) -> str | None:
    """Why a deployment may never have a request, whoever else could not take it; None where it may.

    Where data may not go everywhere, a deployment that does not say where it is gets none of it.
    """
    if ask.regions is not None:
        region = deployment.region
        if region is None:
            return f"residency: it does not say where it is, and data may go to {_regions(ask.regions)} only"
        if not any(is_within(region, allowed) for allowed in ask.regions):
            return f"residency: it is in {region}, and data may go to {_regions(ask.regions)} only"
    if ask.vendors is not None and deployment.vendor not in ask.vendors:
        return (
            f"vendor: {deployment.vendor or 'it names none'} is not one of {', '.join(sorted(ask.vendors))}"
        )
    region, home = deployment.region, ask.home
    if (
        deployment.kind == "edge"
        and region is not None
        and home is not None
        and not (is_within(home, region) or is_within(region, home))
    ):
        return f"edge: it serves {region}, and the subscriber is at home in {home}"
    return None


def _regions(regions: Sequence[str]) -> str:
    return ", ".join(regions) or "no region"


def is_within(region: str, other: str) -> bool:
    """Whether a region is another one or a part of it: cn-sh is within cn."""
    return region == other or region.startswith(other + "-")


class Placement:
    """The state that decisions are made on: what each place's cache may hold, and how busy all of them are."""

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._live: list[DeploymentView] = []
        self._numbers: dict[str, int] = {}
        self._busy = 0
        self._load = 0.0
        self._load_s = 0.0
        self._places = 1
        # How often each place has had the longest prefix, a second; all decay alike, so they are kept divided by the decay.
        self._wanted: dict[int, float] = {}
        self._wanted_s = 0.0
        self._rules: dict[tuple[object, ...], dict[DeploymentView, str | None]] = {}

    def set_views(self, places: Views, now_s: float = 0.0) -> None:
        """Those that there are now. A place's cache is forgotten with it; one that comes new to others of its model begins slowly."""
        served = {place.deployment.model for place in self._live}
        # Requests go on at places that are gone: what they tell is heard by nobody.
        for place in self._live:
            place.number = -1
        self._live = list(places)
        self._rules.clear()
        names = {place.name for place in places}
        for name in [name for name in self._numbers if name not in names]:
            number = self._numbers.pop(name)
            self._index.forget(number)
            self._wanted.pop(number, None)
        taken = set(self._numbers.values())
        free = (number for number in range(len(places) + len(taken)) if number not in taken)
        for place in places:
            known = self._numbers.get(place.name)
            number = next(free) if known is None else known
            if known is None and place.deployment.model in served:
                place.begin_slowly(now_s)
            self._numbers[place.name] = place.number = number
            self._index.add_deployment(number, place.deployment.cache_blocks or CACHE_BLOCKS_DEFAULT)
        self._places = max(1, len(places))
        self._busy = sum(place.forecast.busy for place in places)

    @property
    def busy(self) -> int:
        """How many places have a request that waits for its first token."""
        return self._busy

    def seen(self, now_s: float) -> dict[str, dict[str, Any]]:
        """What was seen of every place, and of all of them together, for another process. `restore` takes it."""
        self._follow_load(now_s)
        decay = self._decay(now_s)
        return {
            place.name: {
                **place.seen(now_s),
                "load": self._load,
                "wanted": self._wanted.get(place.number, 0.0) * decay,
            }
            for place in self._live
        }

    def restore(self, seen: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
        """The state of another process's placement, but for what caches hold: of the places that are set."""
        for place in self._live:
            state = seen.get(place.name)
            if state is not None:
                place.restore(state, now_s)
                self._wanted[place.number] = float(state["wanted"])
                self._load = float(state["load"])
        self._wanted_s = self._load_s = now_s
        self._busy = sum(place.forecast.busy for place in self._live)

    def _follow_load(self, now_s: float) -> None:
        passed_s = now_s - self._load_s
        if passed_s > 0.0:
            self._load += (1.0 - math.exp(-passed_s / LOAD_TAU_S)) * (self._busy / self._places - self._load)
            self._load_s = now_s

    def _decay(self, now_s: float) -> float:
        return math.exp(-max(0.0, now_s - self._wanted_s) / WANTED_TAU_S)

    def _want(self, matched: dict[int, int], now_s: float) -> None:
        """Somebody came for the places that have most of a prompt."""
        decay = self._decay(now_s)
        if decay < 0.01:
            self._wanted = {number: value * decay for number, value in self._wanted.items()}
            self._wanted_s, decay = now_s, 1.0
        most = max(matched.values())
        holders = [number for number, blocks in matched.items() if blocks == most]
        share = 1.0 / (WANTED_TAU_S * decay * len(holders))
        for number in holders:
            self._wanted[number] = self._wanted.get(number, 0.0) + share

    def _rules_of(self, ask: PlacementRequest) -> dict[DeploymentView, str | None]:
        """What `may_have` said of places under the same rules: many subscribers have the same ones."""
        key = ask.regions, ask.vendors, ask.home
        found = self._rules.get(key)
        if found is None:
            if len(self._rules) >= RULES_MAX:
                self._rules.clear()
            found = self._rules[key] = {}
        return found

    def choose(
        self, places: Views, tried: Collection[str], ask: PlacementRequest, now_s: float
    ) -> Candidate | None:
        """The place with the best score among those that may have the request and whose circuit is closed; ties go round by
        last use. Where none is left, the one that cools down first, or seems too small: a wrong guess costs one request,
        refusing all of them costs every one. Never one whose upstream named a time that is not over. None where nobody may
        have it.
        """
        if ask is TRIVIAL_REQUEST and len(places) == 1:
            place = places[0]
            if place.trial or place.draining or now_s < place.retry_after_until_s or place.name in tried:
                return None
            return place.unscored
        best = self._foresee(places, tried, ask, now_s, best_only=True)
        if best:
            return best[-1]
        closed = [
            place
            for place in places
            if place.name not in tried
            and not place.trial
            and not place.draining
            and now_s >= place.retry_after_until_s
            and may_have(place.deployment, ask) is None
        ]
        last = min(closed, key=lambda place: place.cool_until_s, default=None)
        return None if last is None else last.unscored

    def explain(
        self, places: Views, tried: Collection[str], ask: PlacementRequest, now_s: float
    ) -> list[Candidate]:
        """Every place with what is foreseen there, or why it is out; the best first, the excluded last."""
        found = self._foresee(places, tried, ask, now_s, best_only=False)
        return sorted(found, key=lambda c: (c.excluded is not None, c.score_nano, c.view.last_used_s))

    def _foresee(
        self, places: Views, tried: Collection[str], ask: PlacementRequest, now_s: float, *, best_only: bool
    ) -> list[Candidate]:
        """All places; or (`best_only`, when a request is placed) those that were the best so far, the best at the end: on the
        data plane nothing is made of the others.
        """
        self._follow_load(now_s)
        load = min(LOAD_MAX, self._load)
        # What work costs beside its own time: the wait of what comes after it.
        crowding = 1.0 / (1.0 - load * load)
        matched = self._index.match(ask.blocks) if ask.blocks else {}
        missing = self._decay(now_s) * WANTED_COST_MS / 1000.0
        wanted = self._wanted
        ms_nano = _SECOND_NANO[ask.objective] / 1000.0
        ruled = ask.regions is not None or ask.vendors is not None or ask.home is not None
        rules = self._rules_of(ask) if ruled else {}
        now_ms, tokens, output_tokens = now_s * 1000.0, ask.input_tokens, ask.output_tokens
        found: list[Candidate] = []
        best_score, best_used_s = math.inf, 0.0
        for place in places:
            excluded = None
            if ruled:
                if place in rules:
                    excluded = rules[place]
                else:
                    excluded = rules[place] = may_have(place.deployment, ask)
            if excluded is None:
                if tried and place.name in tried:
                    excluded = "tried: it was asked already"
                elif place.draining:
                    excluded = "draining: it takes nothing new"
                elif tokens > place.context_tokens:
                    excluded = f"context: about {tokens} tokens, it takes {place.context_tokens}"
                elif place.failures >= FAILURES_TO_OPEN and place.open(now_s):
                    excluded = f"health: it failed {place.failures} times, and rests"
                elif place.warm_from_s is not None:
                    excluded = place.too_early(now_s)
            if excluded is not None and best_only:
                continue
            forecast, number = place.forecast, place.number
            blocks = matched.get(number, 0)
            uncached = ask.uncached(blocks) if blocks else tokens
            own_ms = forecast.ms_per_token * uncached
            wait_ms = forecast.wait_ms(now_ms) if forecast.waiting else 0.0
            latency_ms = forecast.latency_ms
            if place.outstanding:
                latency_ms += forecast.running_ms * forecast.running(place.outstanding)
            paid_nano = 0
            if place.costs:
                paid_nano = (
                    uncached * place.fresh_nano
                    + (tokens - uncached) * place.cached_nano
                    + output_tokens * place.output_nano
                )
            # Beside its own time, what comes after it, and who comes for this cache while the place reads this prompt.
            score = paid_nano + ms_nano * (
                latency_ms + wait_ms + own_ms * (crowding + wanted.get(number, 0.0) * missing)
            )
            if place.edge_region is not None and ask.edge_first:
                score -= ms_nano * EDGE_FIRST_MS
            if best_only:
                if score > best_score or (score == best_score and place.last_used_s >= best_used_s):
                    continue
                best_score, best_used_s = score, place.last_used_s
            found.append(Candidate(place, excluded, wait_ms, own_ms, latency_ms, blocks, paid_nano, score))
        if best_only and matched:
            self._want(matched, now_s)
        return found

    # What is told of it.

    def sent(
        self, ticket: object, chosen: Candidate, ask: PlacementRequest, now_s: float, *, streams: bool = True
    ) -> None:
        """A request is on its way to the place that was chosen. Where it does not stream, nobody sees its first token."""
        if ask is TRIVIAL_REQUEST:
            return
        place, forecast = chosen.view, chosen.view.forecast
        uncached = ask.uncached(chosen.matched_blocks)
        if place.number >= 0 and not forecast.busy:
            self._busy += 1
        sure = streams and 2 * (ask.input_tokens - uncached) <= ask.input_tokens
        forecast.sent(
            ticket, now_s * 1000.0, uncached, sure=sure, running=forecast.running(place.outstanding - 1)
        )
        if ask.blocks and place.number >= 0:
            self._index.touch(place.number, ask.blocks)

    def first_token(self, ticket: object, place: DeploymentView, now_s: float) -> None:
        if place.forecast.busy:
            place.forecast.first_token(ticket, now_s * 1000.0)
            self._count_idle(place)

    def dropped(self, ticket: object, place: DeploymentView) -> None:
        """It ended without a first token."""
        if place.forecast.busy:
            place.forecast.dropped(ticket)
            self._count_idle(place)

    def _count_idle(self, place: DeploymentView) -> None:
        """It was busy; it may not be any more."""
        if place.number >= 0 and not place.forecast.busy:
            self._busy -= 1


def retry_after_wait_s(places: Iterable[DeploymentView], ask: PlacementRequest, now_s: float) -> float:
    """Seconds until the first of the places that may have a request takes one, where each of them rests for a time that its
    upstream named; 0.0 where one of them does not rest, or none may have it.
    """
    return min(
        (
            place.resting_s(now_s)
            for place in places
            if not place.draining and may_have(place.deployment, ask) is None
        ),
        default=0.0,
    )


def carry_over(old: Iterable[DeploymentView], new: Iterable[DeploymentView]) -> list[DeploymentView]:
    """Places of a new snapshot: what is unchanged keeps its state (and its requests in flight)."""
    known = {place.name: place for place in old}
    kept = []
    for place in new:
        before = known.get(place.name)
        if before is not None and before.deployment != place.deployment:
            # It only drains, or takes requests again: the same place, with those that it serves.
            same = before.deployment.model_copy(update={"draining": place.deployment.draining})
            if same == place.deployment:
                before.declare(place.deployment)
            else:
                before = None
        kept.append(place if before is None else before)
    return kept
