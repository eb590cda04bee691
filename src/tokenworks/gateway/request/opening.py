"""Checks before the hold: the key, the tools, the links that an upstream would fetch, and the upstream objects of the account."""

from collections.abc import Callable
from typing import Final

from tokenworks.charging import OBJECT_OWNER, ObjectOwner, UpstreamObject
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import BodyError, Parsed, is_maximum, parse_body, tools_refused
from tokenworks.gateway.protocol.links import RETRY_LATER
from tokenworks.gateway.request.refusals import consent_missing, suspended, unusable_key
from tokenworks.gateway.request.state import KnownRequest
from tokenworks.gateway.shared import Shared

# Limit of upstream objects in one request: each of them is looked up.
OBJECTS_MAX: Final = 32
KEYS_AWAY: Final = Refusal(503, "database_away", "keys can't be looked up now", 1)


def refusal_of_key(shared: Shared, user: KeyEntry | None) -> Refusal | None:
    """The refusal if this key may not begin a request now; else None. `user` None: the database can't be reached."""
    if user is None:
        return KEYS_AWAY
    unusable = unusable_key(user, shared.keys.lacking, shared.clock.civil_ms())
    if unusable is not None:
        return unusable
    if user.suspended_by:
        return suspended(user)
    if user.refused_by is not None:
        return consent_missing(user.refused_by)
    limit = shared.settings.key_requests_max
    if user.in_flight >= limit:
        message = f"this key has {limit} requests in flight: wait for one to end"
        return Refusal(429, "too_many_requests", message, 1)
    abandons_max = shared.settings.key_abandons_per_min
    if abandons_max and user.abandoned(shared.loop.time()) >= abandons_max:
        message = "this key leaves too many of its requests before their end: read them to the end"
        return Refusal(429, "too_many_requests", message, 60)
    return None


def read_body(request: KnownRequest, body: bytes) -> Refusal | None:
    """Give a request this body, which is sent on. Returns the refusal of one that is not valid."""
    try:
        parsed = parse_body(body, request.protocol)
    except BodyError as error:
        return error.refusal
    if (
        body is not request.body
        and request.own_body is None
        and (request.logs_content or request.head.may_replay)
    ):
        request.own_body = request.body
    request.body = body
    request.set_parsed(parsed)
    return None


def refusal_of_tools(shared: Shared, user: KeyEntry, parsed: Parsed) -> Refusal | None:
    """The refusal if the service does not allow the body's tools; else None. Unusual requests are counted."""
    if parsed.choices > 1 or parsed.dropped:
        counters = shared.stats.c
        counters["free_rider_many_choices"] += parsed.choices > 1
        counters["free_rider_maximum_aliases"] += any(is_maximum(name) for name in parsed.dropped)
    return tools_refused(parsed.hosted, user.service) if parsed.hosted else None


def refusal_of_links(reason: str | None) -> Refusal | None:
    """The refusal for the result of the check of links; None if the upstream may fetch them."""
    if reason is None:
        return None
    if reason is RETRY_LATER:
        return Refusal(503, "overloaded", reason, 1)
    return Refusal(400, "forbidden_link", reason)


class ObjectLookups:
    """Looks up the upstream objects that a request names, one after the other, until one is refused or the client has gone. `found(refusal)`
    is called once.
    """

    __slots__ = ("_at", "_found", "_request", "_shared")

    def __init__(
        self, shared: Shared, request: KnownRequest, found: Callable[[Refusal | None], None]
    ) -> None:
        self._shared = shared
        self._request = request
        self._found = found
        self._at = 0

    def run(self) -> None:
        objects = self._request.parsed.objects
        if len(objects) > OBJECTS_MAX:
            message = f"a request names at most {OBJECTS_MAX} objects of an upstream"
            self._found(Refusal(400, "invalid_body", message))
        elif self._at == len(objects):
            self._found(None)
        else:
            wanted = UpstreamObject(self._request.user.account_id, objects[self._at][1])
            self._shared.client.request(OBJECT_OWNER, wanted, self._answered)

    def _answered(self, owner: ObjectOwner | None) -> None:
        request = self._request
        if request.conn is None:
            self._found(None)
            return
        param, name = request.parsed.objects[self._at]
        refusal = take_object(request, param, name, owner)
        if refusal is not None:
            self._found(refusal)
            return
        self._at += 1
        self.run()


def take_object(request: KnownRequest, param: str, name: str, owner: ObjectOwner | None) -> Refusal | None:
    """Limit the request to the deployment that made an upstream object, or return why the object is refused. An object is valid only
    for the account that received it.

    `owner`: the recorder's answer; None if the database can't be reached.
    """
    if owner is None:
        return Refusal(503, "database_away", "the object can't be looked up now", 1)
    deployment = owner.deployment
    request.views = [view for view in request.views if deployment and view.name == deployment]
    if not request.views:
        message = f"no such object as {param} names: an id works only for the account that received it"
        return Refusal(400, "foreign_object", message, param=param)
    request.native = len(request.views)
    request.object_deployment = deployment
    request.stored_tokens += owner.tokens
    return None
