"""The refusal that a client gets for an upstream's error. The vendor's words are not passed on, apart from what the client can act on."""

import math

from tokenworks.factory import DeploymentView
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.vendor_errors import Fault, by_codes, refusal_of


def vendor_names(view: DeploymentView) -> tuple[str, ...]:
    """Names that are removed from an upstream's words: the vendor's and the hosts of the deployment."""
    deployment, profile = view.deployment, view.profile
    vendor = () if deployment.vendor is None else (deployment.vendor,)
    return (*vendor, *profile.names, *profile.hosts, deployment.host)


def vendor_fault(fault: Fault, view: DeploymentView) -> Fault:
    """The fault by the vendor's own codes."""
    codes = view.profile.error_codes
    return by_codes(fault, codes) if codes else fault


def client_refusal(fault: Fault, view: DeploymentView, model: str) -> Refusal | None:
    """The refusal for a fault of the client's own; None if another deployment may do better. `model`: as the client named it."""
    if fault.kind not in {"client", "moderation"}:
        return None
    return refusal_of(
        fault, names=vendor_names(view), model=model, upstream_model=view.deployment.upstream_model
    )


def refusal_for(fault: Fault, model: str) -> Refusal:
    """The refusal for a fault if no other deployment takes the request."""
    seconds = max(1, math.ceil(fault.retry_after_s or 1))
    if fault.kind == "rate":
        message = f"{model} is busy: every deployment is at its limit, try again in {seconds} s"
        return Refusal(429, "too_many_requests", message, seconds)
    if fault.kind == "quota" or (fault.kind == "overloaded" and fault.retry_after_s is not None):
        return Refusal(503, "no_deployment", f"no deployment can take {model} now", seconds)
    return Refusal(502, "upstream_error", f"the deployment of {model} failed", seconds)
