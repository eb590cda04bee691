"""Fallback: the causes for which a request goes on to the next of its models.

A request falls back before any content was sent: if its model is not served, no deployment takes it, every attempt failed, the
input is longer than the model's context, a content policy refuses it, or the plan does not pay for the model.
"""

from typing import Final

from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request.state import KnownRequest

CONTEXT: Final = "context"
MODERATION: Final = "moderation"
NOTHING_LEFT: Final = "nothing_left"
NOT_SERVED: Final = "not_served"
_CONTEXT_CODE: Final = "context_length_exceeded"


def cause_of_fault(request: KnownRequest, fault: Fault) -> str:
    """Why the request falls back after a fault that is the client's own; "" if it does not: no other model would do better."""
    if not request.falls_back:
        return ""
    if fault.kind == "moderation":
        return MODERATION if request.user.service.fallback_after_moderation else ""
    return CONTEXT if fault.code == _CONTEXT_CODE else ""


def asked_name(model: str) -> str:
    """The name that the client asked for, as the usage record has it: a model that nobody serves may have any name, and the database
    takes no NUL.
    """
    return model if model.isprintable() else "".join([c if c.isprintable() else "?" for c in model])
