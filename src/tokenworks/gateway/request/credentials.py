"""What a vendor's answer says of the credential that a request was sent with: it rests, is read again, or has so much left."""

from collections.abc import Mapping
from typing import Final

import structlog

from tokenworks.factory import (
    QUOTA_REST_S,
    RATE_REST_S,
    REFUSED_REST_S,
    CredentialRing,
    CredentialSlot,
    DeploymentView,
)
from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request.state import PlacedAttempt
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()

_LIMIT: Final = b"-limit-"
_REMAINING: Final = b"-remaining-"
_DIGITS_MAX: Final = 15


def take(shared: Shared, ring: CredentialRing) -> CredentialSlot:
    """The credential for an attempt at a deployment that has several."""
    return ring.take(shared.loop.time(), shared.snapshot.has_credential)


def is_refused(fault: Fault) -> bool:
    """True if the upstream refuses the credential itself: 401, and 403 that is about nothing else."""
    return fault.status in {401, 403} and fault.kind == "server"


def is_of_one(shared: Shared, attempt: PlacedAttempt, fault: Fault) -> bool:
    """True if a fault is of the credential alone, so that the deployment takes the request with another one, or with its new one.

    A refused credential is read again at once. A credential that is refused, over its rate or out of quota rests by itself, if the
    deployment has several.
    """
    view, slot, ring = attempt.view, attempt.slot, attempt.view.credentials
    reference = view.deployment.credential if slot is None else slot.reference
    if is_refused(fault) and reference is not None:
        shared.renew_credential(reference)
        if shared.heads_number != attempt.heads_number:
            # The number also changes with the snapshot: the deployment is then tried once more than needed.
            return True
    rest_s = _rest_s(fault)
    if slot is None or ring is None or rest_s is None:
        return False
    _rest(shared, attempt, slot, fault, rest_s)
    return ring.resting_s(shared.loop.time(), shared.snapshot.has_credential) == 0.0


def after_fault(shared: Shared, attempt: PlacedAttempt, fault: Fault) -> tuple[float | None, bool]:
    """(seconds for which the deployment rests, or None; whether the fault counts against the deployment's health)."""
    request, view = attempt.request, attempt.view
    if is_of_one(shared, attempt, fault):
        # The deployment is well: another credential of it, or its new one, may be taken.
        if request.attempt_no < shared.settings.attempts_max:
            request.tried.remove(view.name)
        return None, False
    wait_s = rest_of_all(shared, view, fault.retry_after_s)
    if wait_s is not None:
        shared.pause_deployment(view, wait_s)
    # A deployment that names the time when it has capacity again is healthy.
    return wait_s, wait_s is None and fault.status not in {404, 409, 425}


def rest_of_all(shared: Shared, view: DeploymentView, wait_s: float | None) -> float | None:
    """Seconds for which a deployment rests whose upstream named `wait_s`: until the first of its credentials takes a request. None if
    the upstream named none.
    """
    ring = view.credentials
    if ring is None or wait_s is None:
        return wait_s
    return ring.resting_s(shared.loop.time(), shared.snapshot.has_credential) or wait_s


def _rest_s(fault: Fault) -> float | None:
    """Seconds for which a credential rests after a fault; None if the fault is the deployment's."""
    if is_refused(fault):
        return REFUSED_REST_S
    if fault.kind == "quota":
        return QUOTA_REST_S if fault.retry_after_s is None else fault.retry_after_s
    if fault.kind == "rate":
        return RATE_REST_S if fault.retry_after_s is None else fault.retry_after_s
    return None


def _rest(shared: Shared, attempt: PlacedAttempt, slot: CredentialSlot, fault: Fault, seconds: float) -> None:
    now_s = shared.loop.time()
    if slot.rests_until_s <= now_s:
        cause = "refused" if is_refused(fault) else fault.kind
        log.warning(
            "credential.rests",
            deployment=attempt.view.name,
            credential=slot.reference,
            cause=cause,
            seconds=round(seconds),
        )
    slot.rest(now_s, seconds)
    if fault.retry_after_s is not None:
        shared.pause_credential(slot)


def note_left(slot: CredentialSlot, headers: Mapping[bytes, bytes]) -> None:
    """Note the smallest part that is left of the limits in an answer's headers (`x-ratelimit-limit-requests` and
    `x-ratelimit-remaining-requests`, and so on). Headers that can't be read say nothing.
    """
    left = 1.0
    lower = {name.lower(): value for name, value in headers.items() if b"ratelimit" in name.lower()}
    for name, value in lower.items():
        if _REMAINING in name:
            limit = lower.get(name.replace(_REMAINING, _LIMIT), b"")
            if _is_number(limit) and _is_number(value) and int(limit) > 0:
                left = min(left, int(value) / int(limit))
    slot.left = left


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _DIGITS_MAX
