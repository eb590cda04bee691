"""What a client is told where an upstream refuses. What the vendor said stays between us, but for what the client can act on."""

import math

from tokenworks.factory import DeploymentView
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.vendor_errors import Fault, refusal_of


def names_of(view: DeploymentView) -> tuple[str, ...]:
    """What a customer does not get to read in an upstream's words: who runs the deployment, and where."""
    deployment, profile = view.deployment, view.profile
    vendor = () if deployment.vendor is None else (deployment.vendor,)
    return (*vendor, *profile.names, *profile.hosts, deployment.host)


def said_on(fault: Fault, view: DeploymentView, model: str) -> Refusal | None:
    """What is said on of a fault that is the client's own. None: another place may do better. `model`: as the client named it."""
    if fault.kind not in {"client", "moderation"}:
        return None
    return refusal_of(fault, names=names_of(view), model=model, upstream_model=view.deployment.upstream_model)


def refusal_for(fault: Fault, model: str) -> Refusal:
    """What the client is told where no other place does better."""
    seconds = max(1, math.ceil(fault.retry_after_s or 1))
    if fault.kind == "rate":
        said = f"{model} is busy: every deployment is at its limit, try again in {seconds} s"
        return Refusal(429, "too_many_requests", said, seconds)
    if fault.kind == "quota" or (fault.kind == "overloaded" and fault.retry_after_s is not None):
        return Refusal(503, "no_deployment", f"no deployment can take {model} now", seconds)
    return Refusal(502, "upstream_error", f"the deployment of {model} failed", seconds)
