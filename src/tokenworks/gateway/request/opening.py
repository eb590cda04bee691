"""What is asked of a key and a body before anything is held: may it begin, may an upstream fetch its links, are its objects its own."""

from typing import Final

from tokenworks.charging import ObjectOwner
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import Parsed, is_maximum, tools_refused
from tokenworks.gateway.protocol.links import LATER
from tokenworks.gateway.request.refusals import consent_missing, suspended, unusable_key
from tokenworks.gateway.request.state import KnownRequest
from tokenworks.gateway.shared import Shared

# Ids of upstream objects in one request: each is looked up.
OBJECTS_MAX: Final = 32


def refusal_of_key(shared: Shared, user: KeyEntry) -> Refusal | None:
    """Why a key begins no request now."""
    unusable = unusable_key(user, shared.keys.lacking, shared.clock.civil_ms())
    if unusable is not None:
        return unusable
    if user.suspended_by:
        return suspended(user)
    if user.refused_by is not None:
        return consent_missing(user.refused_by)
    limit = shared.settings.key_requests_max
    if user.in_flight >= limit:
        said = f"this key has {limit} requests in flight: wait for one to end"
        return Refusal(429, "too_many_requests", said, 1)
    abandons_max = shared.settings.key_abandons_per_min
    if abandons_max and user.abandoned(shared.loop.time()) >= abandons_max:
        said = "this key leaves too many of its requests before their end: read them to the end"
        return Refusal(429, "too_many_requests", said, 60)
    return None


def refusal_of_tools(shared: Shared, user: KeyEntry, parsed: Parsed) -> Refusal | None:
    """Why a body's tools can't be had. What it asks for more often than most do is counted."""
    if parsed.choices > 1 or parsed.dropped:
        counters = shared.stats.c
        counters["free_rider_many_choices"] += parsed.choices > 1
        counters["free_rider_maximum_aliases"] += any(is_maximum(name) for name in parsed.dropped)
    return tools_refused(parsed.hosted, user.service) if parsed.hosted else None


def refusal_of_links(why: str | None) -> Refusal | None:
    """Why an upstream may not fetch what the request links to; `why`: as the check says."""
    if why is None:
        return None
    if why is LATER:
        return Refusal(503, "overloaded", why, 1)
    return Refusal(400, "forbidden_link", why)


def take_object(request: KnownRequest, param: str, name: str, owner: ObjectOwner | None) -> Refusal | None:
    """An upstream object resolves only for the account that received it, and only where it was made; why it does not.

    `owner`: as the recorder answers; None where nobody could say.
    """
    if owner is None:
        return Refusal(503, "database_away", "the object can't be looked up now", 1)
    deployment = owner.deployment
    request.places = [view for view in request.places if deployment and view.name == deployment]
    if not request.places:
        said = f"no such object as {param} names: an id works only for the account that received it"
        return Refusal(400, "foreign_object", said, param=param)
    request.object_place = deployment
    request.stored_tokens += owner.tokens
    return None
