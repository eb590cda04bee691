"""Deployments as one worker sees them: what is declared of each, what the worker observed, and what a snapshot swap keeps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tokenworks.factory.facts.endpoints import auth_headers, auth_of, paths_of
from tokenworks.factory.facts.profiles import Endpoint, profile_of
from tokenworks.factory.model import Deployment
from tokenworks.factory.placing.credentials import CredentialRing
from tokenworks.factory.placing.forecast import Forecast
from tokenworks.factory.placing.health import Health
from tokenworks.factory.placing.request import PlacementRequest, may_have

# What `DeploymentView.seen` gives for one name: a measurement, a flag, or None.
Observation = float | int | bool | None


class DeploymentView(Health):
    """One deployment as a worker sees it."""

    __slots__ = (
        "cached_nano",
        "context_tokens",
        "costs",
        "credentials",
        "deployment",
        "draining",
        "edge_region",
        "forecast",
        "fresh_nano",
        "last_used_s",
        "name",
        "number",
        "output_nano",
        "paths",
        "profile",
        "unscored",
    )

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self.name = deployment.name
        self.declare(deployment)
        # The deployment's number in the placement; -1: the placement does not have it (any more).
        self.number = -1
        # None: it has one credential or none.
        references = deployment.references
        self.credentials = CredentialRing(self.name, references) if len(references) > 1 else None
        self.unscored = Candidate(self, None, 0.0, 0.0, 0.0, 0, 0, 0.0)
        self.last_used_s = 0.0
        self.forecast = Forecast(
            deployment.round_trip_ms,
            1000.0 / deployment.prefill_tokens_per_s if deployment.prefill_tokens_per_s else None,
        )

    def declare(self, deployment: Deployment) -> None:
        """Take over what is declared of the deployment; what was observed stays."""
        self.deployment = deployment
        self.profile = profile_of(deployment.profile)
        # The path of each protocol, of `count_tokens` and of `models`; of `compact` where the vendor has it.
        self.paths: dict[str, str] = paths_of(deployment, self.profile)
        self.draining = deployment.draining
        # An edge box is preferred for subscribers near its region, if it declares one.
        self.edge_region = (deployment.region or "") if deployment.kind == "edge" else None
        self.context_tokens = deployment.context_tokens
        # What one more token costs the operator: nothing on committed capacity.
        price = deployment.price
        fresh = price.fresh_input_nano or 0
        cached = price.cached_input_nano if price.cached_input_nano is not None else fresh
        paid = (0, 0, 0) if deployment.committed else (fresh, cached, price.output_nano or 0)
        self.fresh_nano, self.cached_nano, self.output_nano = paid
        self.costs = any(paid)

    def auth_lines(self, endpoint: Endpoint, secret: str) -> bytes:
        """The header lines that carry a credential to an endpoint."""
        auth = auth_of(self.deployment, self.profile, endpoint)
        return "".join(f"{name}: {value}\r\n" for name, value in auth_headers(auth, secret).items()).encode()

    def began(self, now_s: float) -> None:
        self.last_used_s = now_s
        super().began(now_s)

    def check_due(self, now_s: float, idle_s: float) -> bool:
        """True if a health check is due: the deployment failed and its cool-down is over, or it has been idle for `idle_s`."""
        if now_s < self.retry_after_until_s:
            return False
        return (self.failures > 0 and not self.open(now_s)) or now_s - self.last_used_s > idle_s

    def seen(self, now_s: float) -> dict[str, Observation]:
        """What this worker observed, for another process: forecast, queue, health. `restore` reads it."""
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
            # What decides between equal scores, and whether anything is sent at all.
            "waiting": forecast.waiting,
            "idle_s": now_s - self.last_used_s,
            "cool_s": self.cool_until_s - now_s,
            "named_s": self.retry_after_until_s - now_s,
            "warm_s": None if self.warm_from_s is None else now_s - self.warm_from_s,
            "trial": self.trial,
        }

    def restore(self, seen: Mapping[str, object], now_s: float) -> None:
        """Take over what another process observed. Its requests in flight are not this worker's, but they count as waiting."""
        self.learn_from(seen)
        self.outstanding = int(number_of(seen, "outstanding"))
        self.failures = int(number_of(seen, "failures"))
        self.last_used_s = now_s - number_of(seen, "idle_s")
        self.cool_until_s = now_s + number_of(seen, "cool_s")
        self.retry_after_until_s = now_s + number_of(seen, "named_s")
        self.warm_from_s = None if seen["warm_s"] is None else now_s - number_of(seen, "warm_s")
        self.trial = bool(seen["trial"])
        for number in range(int(number_of(seen, "waiting"))):
            own_ms = 0.0 if number else number_of(seen, "wait_ms")
            self.forecast.sent(f"before {number}", now_s * 1000.0, 0, sure=False, own_ms=own_ms)

    def learn_from(self, seen: Mapping[str, object]) -> None:
        """Take over latency and speed as another process learned them, if this worker has learned nothing yet."""
        self.forecast.begin_with(
            number_of(seen, "latency_ms"),
            number_of(seen, "ms_per_token"),
            number_of(seen, "running_ms"),
            int(number_of(seen, "answers")),
        )

    def too_early(self, now_s: float) -> str | None:
        """Return why the deployment takes no further request during its slow start; None if it takes one."""
        most = self.takes(now_s)
        if most is None or self.outstanding < most:
            return None
        return f"slow start: it takes {most} at once for now"


Views = Sequence[DeploymentView]


class Candidate(NamedTuple):
    """A deployment and what is predicted for a request there; `excluded` says why the deployment may not have the request."""

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


def number_of(seen: Mapping[str, object], name: str) -> float:
    """A number in what another process wrote. Raises `KeyError`, `TypeError`."""
    value = seen[name]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} is no number")
    return float(value)


def retry_after_wait_s(views: Iterable[DeploymentView], request: PlacementRequest, now_s: float) -> float:
    """Seconds until the first deployment that may have the request takes one again, if the upstream of each of them named a time
    (Retry-After). 0.0 if one of them is not waiting for such a time, or no deployment may have the request.
    """
    return min(
        (
            view.resting_s(now_s)
            for view in views
            if not view.draining and may_have(view.deployment, request) is None
        ),
        default=0.0,
    )


def carry_over(old: Iterable[DeploymentView], new: Iterable[DeploymentView]) -> list[DeploymentView]:
    """The views of a new snapshot: an unchanged deployment keeps its old view, with its state and its requests in flight."""
    known = {view.name: view for view in old}
    kept = []
    for view in new:
        before = known.get(view.name)
        if before is not None and before.deployment != view.deployment:
            # Where only `draining` differs it is the same deployment, and its requests in flight go on.
            same = before.deployment.model_copy(update={"draining": view.deployment.draining})
            if same == view.deployment:
                before.declare(view.deployment)
            else:
                before = None
        kept.append(view if before is None else before)
    return kept
