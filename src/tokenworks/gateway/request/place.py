"""Placement: the deployment that a request gets, and the wait if all eligible deployments are at their limits.

A request with `service_tier: flex` waits for the cheapest eligible deployment until its deadline is near. Any other request waits up
to `queue_wait_s` if all deployments are full.
"""

import math
from collections.abc import Sequence
from typing import Final

import structlog

from tokenworks.charging import SHED, TIMED_OUT, Admission, Limit, QueueEntry
from tokenworks.charging.worker.admission import AdmissionCallback
from tokenworks.factory import (
    BLOCK_BYTES,
    FLEX,
    PRIORITY,
    STANDARD,
    TRIVIAL_REQUEST,
    Candidate,
    DeploymentView,
    Objective,
    PlacementRequest,
    eject_outlier,
    hash_blocks,
    may_have,
    placement_request,
    retry_after_wait_s,
    single_deployment_request,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.decisions import DecisionLog
from tokenworks.gateway.request.refusals import over_limit
from tokenworks.gateway.request.state import CapacityRequest, HeldRequest, KnownRequest, PlacedAttempt
from tokenworks.gateway.request.traced import begin_attempt, end_attempt
from tokenworks.gateway.request.translating import speaks
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()

# Bytes of a token where only the magnitude matters.
BYTES_PER_TOKEN: Final = 4
# The most deployments in one request for capacity.
QUEUE_PLACES_MAX: Final = 64
# A flex request stops waiting for the cheapest deployment with this part of its time left.
FLEX_LEFT: Final = 0.1


def pass_over(request: HeldRequest, names: Sequence[str]) -> None:
    """Try these deployments no more. Nothing was sent to them, so they do not count among the deployments that `attempts_max` limits."""
    for name in names:
        if name not in request.tried:
            request.tried.append(name)
            request.passed_over += 1


class Placements:
    __slots__ = ("_decisions", "_shared")

    def __init__(self, shared: Shared, decisions: DecisionLog) -> None:
        self._shared = shared
        self._decisions = decisions

    # A deployment.

    def choose(self, request: HeldRequest) -> Candidate | CapacityRequest | None:
        """The deployment that takes the request now, or a request for capacity at deployments that are at their limits, or None. After
        None there is no deployment, unless the request is `deferred`: then the next tick chooses again.
        """
        shared = self._shared
        now_s = shared.loop.time()
        request.deferred = False
        placement_request = _placement_request(request)
        while True:
            chosen = self._best(request, placement_request, now_s)
            if chosen is None:
                self._decided(request, placement_request, None)
                return None
            if placement_request is not TRIVIAL_REQUEST:
                self._decided(request, placement_request, chosen)
            broken = shared.broken_credentials
            if not broken or chosen.view.name not in broken:
                break
            pass_over(request, [chosen.view.name])
            message = f"no deployment can take {request.model} now"
            request.last_refusal = Refusal(503, "no_deployment", message, 5)
        if request.flex and not request.free:
            left_s = self._flex_until_s(request) - now_s
            if left_s > 0:
                cheapest = self._cheapest(request, placement_request, now_s, left_s)
                if cheapest is not None or request.deferred:
                    return cheapest
            # From here on the request is placed like any other, but by cost.
            request.flex = False
            return self.choose(request)
        if shared.snapshot.limits and not request.free:
            return self._with_capacity(request, chosen, placement_request, now_s)
        return chosen

    def _best(
        self, request: HeldRequest, placement_request: PlacementRequest, now_s: float
    ) -> Candidate | None:
        shared, tried = self._shared, request.tried
        if request.attempt_no:
            # A retry uses the retry budget. If there is no other deployment nothing is sent again, and the budget is left to
            # requests that have one.
            if (
                all(view.name in tried for view in request.views)
                or len(tried) - request.passed_over >= shared.settings.attempts_max
                or not shared.retries.may_retry(now_s)
            ):
                return None
        elif not tried:
            shared.retries.request(now_s)
        return shared.placement.choose(request.views, tried, placement_request, now_s, request.native)

    def _decided(
        self, request: HeldRequest, placement_request: PlacementRequest, chosen: Candidate | None
    ) -> None:
        self._decisions.decided(
            request.request_id,
            request.model,
            request.views,
            request.native,
            request.tried,
            placement_request,
            chosen,
        )

    def has_others(self, request: HeldRequest) -> bool:
        """True if another deployment could be tried."""
        sent = len(request.tried) - request.passed_over
        return len(request.tried) < len(request.views) and sent < self._shared.settings.attempts_max

    def refusal(self, request: HeldRequest) -> Refusal:
        """The refusal of a request that no deployment takes."""
        if request.last_refusal is not None:
            return request.last_refusal
        placement_request, model = _placement_request(request), request.model
        wait_s = retry_after_wait_s(request.views, placement_request, self._shared.loop.time())
        if wait_s > 0:
            # Every deployment has named the time when it has capacity again.
            seconds = math.ceil(wait_s)
            message = f"{model} is busy: every deployment is at its limit, try again in {seconds} s"
            return Refusal(429, "too_many_requests", message, seconds)
        reasons = [may_have(view.deployment, placement_request) for view in request.views]
        if all(reasons) and any(str(reason).startswith("residency") for reason in reasons):
            allowed = ", ".join(placement_request.regions or ()) or "no region, by its wish and its consent,"
            message = f"no deployment of {model} may have this account's data, which may go to {allowed} only"
            return Refusal(403, "residency", message, param="model")
        return Refusal(503, "no_deployment", f"no deployment can take {model} now", 5)

    # Capacity of limited deployments.

    def _candidates(
        self, request: HeldRequest, placement_request: PlacementRequest, now_s: float
    ) -> list[Candidate]:
        """The deployments that can take the request now, the best first."""
        if placement_request is TRIVIAL_REQUEST:
            return [request.views[0].unscored]
        shared = self._shared
        broken = shared.broken_credentials
        return [
            candidate
            for candidate in shared.placement.explain(
                request.views, request.tried, placement_request, now_s, request.native
            )
            if candidate.excluded is None and candidate.view.name not in broken
        ]

    def _with_capacity(
        self, request: HeldRequest, chosen: Candidate, placement_request: PlacementRequest, now_s: float
    ) -> Candidate | CapacityRequest:
        """The chosen deployment, unless it has limits of its own: then a request for capacity, which waits only if every candidate has
        limits.
        """
        limits = self._shared.snapshot.limits
        if chosen.view.name not in limits:
            return chosen
        ordered = self._candidates(request, placement_request, now_s) or [chosen]
        free = _first_unlimited(ordered, limits)
        limited = [candidate for candidate in ordered if candidate.view.name in limits]
        if free is not None:
            return self._capacity_request(limited, STANDARD, 0, free)
        service = PRIORITY if request.user.service.priority else STANDARD
        wait_ms = self._shared.settings.queue_wait_s * 1000
        if request.queue_until_s:
            wait_ms = max(0, int((request.queue_until_s - now_s) * 1000))
        else:
            request.queue_until_s = now_s + wait_ms / 1000
        return self._capacity_request(limited, service, wait_ms, None)

    def _capacity_request(
        self, candidates: Sequence[Candidate], service: int, wait_ms: int, otherwise: Candidate | None
    ) -> CapacityRequest:
        candidates = candidates[:QUEUE_PLACES_MAX]
        limits = self._shared.snapshot.limits
        named = tuple([limits[candidate.view.name] for candidate in candidates])
        return CapacityRequest(candidates, named, service, wait_ms, otherwise)

    def request_capacity(
        self, request: HeldRequest, capacity_request: CapacityRequest, answered: AdmissionCallback
    ) -> None:
        """Ask the recorder for capacity; `answered(admission, wait_ms, limit, what)` is called at once or later."""
        user, shared = request.user, self._shared
        request.capacity_request = capacity_request
        request.asked_s = shared.loop.time()
        tokens = request.need.input_tokens + request.held_output
        queued = QueueEntry(
            request.model,
            user.account_id,
            user.service.weight,
            capacity_request.service,
            capacity_request.wait_ms,
        )
        request.queue_number = shared.client.admissions.request(
            capacity_request.limits, tokens, answered, queued
        )

    def capacity_answered(self, request: HeldRequest) -> None:
        """Count the time that the request waited for capacity."""
        request.queued_ms += int((self._shared.loop.time() - request.asked_s) * 1000)

    def admitted(self, request: HeldRequest, admission: Admission) -> Candidate | None:
        """The deployment that admitted the request. None if it has become unhealthy; the admission is given back then."""
        capacity_request = request.capacity_request
        chosen = capacity_request.candidates[capacity_request.limits.index(admission.limits[0])]
        view, now_s = chosen.view, self._shared.loop.time()
        bad = view.trial or view.resting_s(now_s) > 0 or (len(request.views) > 1 and view.open(now_s))
        if view.draining or bad:
            # A model's only deployment is tried during its cool-down, too.
            self.give_back(admission)
            return None
        return chosen

    def give_back(self, admission: Admission) -> None:
        """End an admission under which nothing was sent."""
        self._shared.client.admissions.end(admission, 0, begun=False)

    def no_capacity(self, request: HeldRequest, limit: Limit, what: int, wait_ms: int) -> Refusal:
        """The refusal of a request that got no capacity. `what`: a limit, or a reason of the queue."""
        if what == SHED:
            reason = f"as many requests for {request.model} wait as may, and this one was let go"
        elif what == TIMED_OUT:
            waited_s = max(1, request.queued_ms // 1000)
            reason = (
                f"all deployments of {request.model} are at their limits, and none came free in {waited_s} s"
            )
        else:
            return over_limit("model's deployments", limit, what, wait_ms)
        seconds = max(1, -(-wait_ms // 1000))
        return Refusal(503, "overloaded", f"{reason}: try again in {seconds} s", seconds)

    # The cheapest deployment.

    def _flex_until_s(self, request: HeldRequest) -> float:
        """The monotonic second at which the request stops waiting for the cheapest deployment. The client may set a shorter time than
        the operator's.
        """
        deadline_s = self._shared.settings.flex_deadline_s
        wanted_s = request.head.headers.get(b"x-tokenworks-deadline-s", b"")
        if wanted_s.isdigit() and len(wanted_s) <= 6:
            deadline_s = max(1, min(deadline_s, int(wanted_s)))
        return request.began_s + deadline_s * (1.0 - FLEX_LEFT)

    def _cheapest(
        self, request: HeldRequest, placement_request: PlacementRequest, now_s: float, left_s: float
    ) -> Candidate | CapacityRequest | None:
        """The cheapest deployment or a request for its capacity. None if none of the cheapest can take the request: it is `deferred`
        then, unless an attempt has already failed.
        """
        shared, tried = self._shared, request.tried
        if placement_request is TRIVIAL_REQUEST:
            candidates = [request.views[0].unscored]
        else:
            candidates = [
                candidate
                for candidate in shared.placement.explain(request.views, tried, placement_request, now_s)
                if may_have(candidate.view.deployment, placement_request) is None
                and candidate.view.name not in tried
            ]
            # Requests are translated only if no deployment that speaks the client's protocol may have them.
            candidates = [c for c in candidates if speaks(request, c.view)] or candidates
        least = min([price_of(candidate.view, placement_request) for candidate in candidates], default=0)
        ready = [
            candidate
            for candidate in candidates
            if candidate.excluded is None and price_of(candidate.view, placement_request) == least
        ]
        free = _first_unlimited(ready, shared.snapshot.limits)
        if free is not None:
            return free
        if ready:
            return self._capacity_request(ready, FLEX, max(1, int(left_s * 1000)), None)
        request.deferred = not request.attempt_no
        return None

    # The attempt at a deployment.

    def began(self, request: HeldRequest, attempt: PlacedAttempt, chosen: Candidate) -> None:
        """An attempt at a deployment begins."""
        shared = self._shared
        now_s = shared.loop.time()
        attempt.view.began(now_s)
        shared.placement.sent(
            attempt, chosen, _placement_request(request), now_s, streams=request.parsed.stream
        )
        shared.stats.c["attempts"] += 1
        if request.trace is not None:
            begin_attempt(shared, request.trace, attempt)

    def succeeded(self, attempt: PlacedAttempt, *, first_token: bool = False) -> None:
        """The deployment answered well. `first_token`: this is the first token of a stream."""
        now_s = self._shared.loop.time()
        attempt.view.succeeded(now_s)
        if first_token:
            self._shared.placement.first_token(attempt, attempt.view, now_s)

    def failed(self, request: HeldRequest, attempt: PlacedAttempt) -> None:
        view, now_s = attempt.view, self._shared.loop.time()
        view.failed(now_s)
        if eject_outlier(view, request.views, now_s):
            cool_s = round(view.cool_until_s - now_s)
            log.warning("placement.ejected", deployment=view.name, cool_s=cool_s)

    def end(self, attempt: PlacedAttempt | None) -> None:
        """The attempt, if there is one, has ended: free its slot and its share of the deployment's limits. Later calls do nothing."""
        if attempt is None or attempt.over:
            return
        attempt.over = True
        shared = self._shared
        shared.placement.dropped(attempt, attempt.view)
        if attempt.request.trace is not None:
            end_attempt(shared, attempt.request.trace, attempt)
        attempt.view.ended()
        if attempt.slot is not None:
            attempt.slot.ended()
        if attempt.admission is not None:
            admission, attempt.admission = attempt.admission, None
            shared.client.admissions.end(admission, attempt.request.spent_tokens, begun=True)


def _first_unlimited(candidates: Sequence[Candidate], limits: dict[str, Limit]) -> Candidate | None:
    """The first candidate whose deployment has no limits of its own."""
    for candidate in candidates:
        if candidate.view.name not in limits:
            return candidate
    return None


def placement_request_of(
    request: KnownRequest,
    input_tokens: int,
    output_tokens: int,
    blocks: Sequence[int],
    objective: Objective | None = None,
) -> PlacementRequest:
    """The placement request. `blocks`: hashes of the prompt's first blocks; `objective`: of an intent."""
    user = request.user
    service = user.service
    objective = "cost" if request.flex else objective or service.objective
    return placement_request(
        objective, service.edge_first, user.regions, user.home, input_tokens, output_tokens, blocks, BLOCK_BYTES / BYTES_PER_TOKEN
    )  # fmt: skip


def _placement_request(request: HeldRequest) -> PlacementRequest:
    """The placement request, made once for each model that the request may get."""
    if request.placement_request is None:
        request.placement_request = _make_placement_request(request)
    return request.placement_request


def _make_placement_request(request: HeldRequest) -> PlacementRequest:
    """The placement request by the length of the prompt, at four bytes a token, and its first blocks."""
    user = request.user
    if len(request.views) == 1:
        return single_deployment_request(user.regions, user.home)
    return placement_request_of(
        request,
        max(1, len(request.body) // BYTES_PER_TOKEN),
        1 if request.free else request.need.output_tokens,
        hash_blocks(request.body),
    )


def price_of(view: DeploymentView, placement_request: PlacementRequest) -> int:
    """The operator's cost of the request at a deployment that has cached nothing, in nano yuan."""
    return (
        placement_request.input_tokens * view.fresh_nano + placement_request.output_tokens * view.output_nano
    )
