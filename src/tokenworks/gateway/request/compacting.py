"""A request of responses with a compaction in its input, or that asks for one: what it is sent as, before anything is decided or held.

A compaction of this gateway is opened, so that any deployment reads it as a message. A request for one goes to a deployment that compacts,
if its model has such a one; else it becomes a request for a summary, which is held, metered and charged like any other. docs/RESPONSES.md.
"""

from collections.abc import Callable
from typing import Final

from tokenworks.charging import CONTENT_KEYS, ContentKeys, ContentKeysAsked
from tokenworks.gateway.protocol.compaction import (
    COMPACT_PATH,
    MAXIMUM,
    NOT_OURS,
    TRIGGER,
    Found,
    find,
    is_trigger,
    opened_item,
    route_body,
    summary_body,
    with_input,
    without_maximum,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import UNREADABLE
from tokenworks.gateway.request.choose import compacts
from tokenworks.gateway.request.opening import read_body
from tokenworks.gateway.request.state import Compaction, KnownRequest
from tokenworks.gateway.request.storing import GoOn, Storing, may_store, store_completion
from tokenworks.gateway.shared import Shared
from tokenworks.trust import SEALED_KEY_BYTES, open_content

NOT_KNOWN: Final = Refusal(503, "database_away", "compactions can't be sealed or opened now", 1)


def needs_preparing(request: KnownRequest) -> bool:
    """True if a request of responses has to be written anew before anything is decided: for the store, or for a compaction."""
    return request.parsed.summaries or may_store(request)


def prepare(shared: Shared, request: KnownRequest, go_on: GoOn, step: Callable[[], None]) -> None:
    """Write it anew; `go_on(refusal, step)` is called once."""
    if request.parsed.stores:
        go_on(store_completion(shared, request), step)
        return
    compacting = Compacting(shared, request, go_on, step)
    if may_store(request):
        Storing(shared, request, go_on, compacting.run).run()
    else:
        compacting.run()


class Compacting:
    """`go_on` and `step` as in `Storing`, which is over before: what it put into the input may have compactions, too."""

    __slots__ = ("_found", "_go_on", "_relays", "_request", "_shared", "_step")

    _found: Found

    def __init__(self, shared: Shared, request: KnownRequest, go_on: GoOn, step: Callable[[], None]) -> None:
        self._shared = shared
        self._request = request
        self._go_on = go_on
        self._step = step
        self._relays = False

    def run(self) -> None:
        request, user = self._request, self._request.user
        if not request.parsed.summaries:
            self._step()
            return
        try:
            found = find(request.parsed.fields["input"])
        except UNREADABLE:
            found = Refusal(400, "invalid_body", "input has to be a text or a list of items", param="input")
        if isinstance(found, Refusal):
            self._done(found)
            return
        self._found = found
        asks = found.triggers and not request.free
        self._relays = asks and self._compacts()
        makes = asks and not self._relays
        if found.own or makes:
            sealed = [item.sealed[:SEALED_KEY_BYTES] for item in found.own]
            question = ContentKeysAsked(user.account_id, user.member_id, sealed, makes)
            self._shared.client.request(CONTENT_KEYS, question, self._answered)
        else:
            self._done(self._take(None))

    def _done(self, refusal: Refusal | None) -> None:
        self._go_on(refusal, self._step)

    def _compacts(self) -> bool:
        """True if a deployment of the model that the request names compacts. An intent has no model yet, and is asked for a summary."""
        request, snapshot = self._request, self._shared.snapshot
        user = request.user
        model = snapshot.model_for(
            request.parsed.model, request.protocol, user.models, user.service.default_model
        )
        route = snapshot.routes.get((model, request.protocol))
        return route is not None and len(compacts(route)) > 0

    def _answered(self, keys: ContentKeys | None) -> None:
        if self._request.conn is None:
            self._done(None)
        elif keys is None:
            self._done(NOT_KNOWN)
        else:
            self._done(self._take(keys))

    def _take(self, keys: ContentKeys | None) -> Refusal | None:
        """Give the request the body that is sent. Returns the refusal of one that is too large, or whose compaction can't be read."""
        request = self._request
        if keys is not None and not self._open(keys):
            return NOT_OURS
        body, unlisted = self._body(keys)
        if body is None:
            return NOT_KNOWN
        if request.stored is not None:
            # What is stored is what the client sent: the compaction stays sealed, and the request for one is no part of a conversation.
            request.stored.items = [item for item in request.stored.items if not is_trigger(item)]
        refusal = None if body is request.body else self._give(body, unlisted)
        if self._relays and refusal is None:
            # What a vendor writes can't be read, so that its stream can't extend its hold by what it shows: all of it is held.
            request.parsed.hidden_reasoning = True
        return refusal

    def _give(self, body: bytes, unlisted: tuple[str, ...]) -> Refusal | None:
        """Give the request another body. `unlisted`: names of fields of the client that this body lacks."""
        request, tags = self._request, self._request.tags
        bytes_max = self._shared.settings.body_bytes_max
        if len(body) > bytes_max:
            message = f"the input is too large with its compactions: {bytes_max} bytes are the most"
            return Refusal(413, "response_too_large", message)
        if not self._shared.memory.take(request.address, len(body)):
            return self._shared.memory.refusal(request.address, len(body))
        request.stored_bytes += len(body)
        refusal = read_body(request, body)
        if refusal is None and unlisted:
            request.parsed.dropped += unlisted
            request.tags = tags  # a field that is not sent may have given some
        return refusal

    def _open(self, keys: ContentKeys) -> bool:
        """Put messages into the places of this gateway's compactions. False if one can't be opened."""
        found = self._found
        if len(keys.opened) != len(found.own):
            return False
        for item, key in zip(found.own, keys.opened, strict=True):
            summary = open_content(key, item.sealed[SEALED_KEY_BYTES:]) if key else None
            if summary is None:
                return False
            found.items[item.place] = opened_item(summary)
        return True

    def _body(self, keys: ContentKeys | None) -> tuple[bytes | None, tuple[str, ...]]:
        """(the body, names of fields that are not sent). None: no key could be made. Sets `compaction` of a request that asks for one."""
        request, found = self._request, self._found
        fields = request.parsed.fields
        if not found.triggers or request.free:
            changed = found.own or found.triggers
            return (with_input(fields, found.items) if changed else request.body), ()
        by_route, streams = request.head.path == COMPACT_PATH, request.parsed.stream
        if self._relays:
            request.compaction = Compaction(True, by_route, streams, [], b"", b"")
            if by_route:
                return route_body(fields, found.items)
            if not found.own and MAXIMUM not in fields:
                return request.body, ()
            body = with_input(without_maximum(fields), [*found.items, TRIGGER])
            return body, (MAXIMUM,) if MAXIMUM in fields else ()
        if keys is None or not keys.key:
            return None, ()
        request.compaction = Compaction(False, by_route, streams, found.users, keys.key, keys.sealed)
        return summary_body(fields, found.items), ()
