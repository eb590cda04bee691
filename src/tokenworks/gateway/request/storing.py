"""A request of responses that continues a stored response or wants its own stored: what it continues is put into its body before anything
is decided or held, so that the hold, the deployment and the meter see the body that is sent.

A response that is not in the account's store is left to the deployment that made it, as without a store. docs/RESPONSES.md.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Raw

from tokenworks.charging import REPLAY_LOOKUP, ReplayFound, ReplayLookup
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import UNREADABLE, Parsed
from tokenworks.gateway.protocol.stored import (
    PREVIOUS,
    conversation,
    decode_stored,
    input_items,
    stored_body,
)
from tokenworks.gateway.protocol.stored_completions import messages_of
from tokenworks.gateway.request.opening import read_body
from tokenworks.gateway.request.replay import stored_name
from tokenworks.gateway.request.state import KnownRequest, ResponseToStore
from tokenworks.gateway.shared import Shared

RESPONSES: Final = "responses"
NOT_KNOWN: Final = Refusal(503, "database_away", "stored responses can't be looked up now", 1)
IN_FLIGHT: Final = Refusal(
    409, "response_in_flight", "the stored response is not recorded yet: it can be used after that", 1
)
_TRUE: Final = Raw(b"true")
_NULL: Final = Raw(b"null")
_NO_METADATA: Final = Raw(b"{}")

GoOn = Callable[[Refusal | None, Callable[[], None]], None]


def may_store(request: KnownRequest) -> bool:
    """True if a request of responses may need the store: its plan has one, and it names an object or wants to be stored. A proven body
    is not decoded again for it.
    """
    parsed = request.parsed
    return request.user.service.stores_responses and (bool(parsed.objects) or _wish(parsed) == _TRUE)


def _wish(parsed: Parsed) -> Raw:
    """The field `store`."""
    return (parsed.outer_fields if parsed.scan is None else parsed.fields).get("store", _NULL)


def store_completion(shared: Shared, request: KnownRequest) -> Refusal | None:
    """Have the completion of a chat stored. Returns the refusal if the plan has no store, or its messages are too large for it."""
    settings = shared.settings
    if not request.user.service.stores_responses or not settings.stored_response_days:
        return Refusal(
            400, "unpriced_field", "store can't be true: this plan stores no answers", param="store"
        )
    fields = request.parsed.fields
    try:
        messages = messages_of(fields["messages"])
    except UNREADABLE:
        return Refusal(400, "invalid_body", "messages has to be a list", param="messages")
    if sum(map(len, messages)) > settings.replay_answer_bytes_max:
        return _too_large("to be stored", settings.replay_answer_bytes_max)
    # No deployment is asked to store it, too.
    request.parsed.unnamed_cuts += (("store",),)
    request.parsed.changed = True
    request.stored = ResponseToStore(messages, None, fields.get("metadata", _NO_METADATA))
    return None


class Storing:
    """`go_on(refusal, step)` is called once: the body of the request is complete, or it is refused, or its client has gone."""

    __slots__ = ("_go_on", "_previous_id", "_request", "_shared", "_step")

    def __init__(self, shared: Shared, request: KnownRequest, go_on: GoOn, step: Callable[[], None]) -> None:
        self._shared = shared
        self._request = request
        self._go_on = go_on
        self._step = step
        self._previous_id = ""

    def run(self) -> None:
        request = self._request
        for path, name in request.parsed.objects:
            if path == PREVIOUS:
                self._previous_id = name
        if self._previous_id:
            self._shared.client.request(REPLAY_LOOKUP, self._lookup(), self._answered)
        elif self._stores(continues=False):
            self._done(self._take([], None))
        else:
            self._done(None)

    def _done(self, refusal: Refusal | None) -> None:
        self._go_on(refusal, self._step)

    def _lookup(self) -> ReplayLookup:
        user = self._request.user
        name = stored_name(user.account_id, user.member_id, self._previous_id, self._request.request_id)
        return ReplayLookup(name, b"", user.member_id, self._shared.client.worker_id, 0)

    def _answered(self, found: ReplayFound | None) -> None:
        request = self._request
        if request.conn is None:
            self._done(None)
        elif found is None:
            self._done(NOT_KNOWN)
        elif found.verdict == "in_flight":
            self._done(IN_FLIGHT)
        elif found.verdict != "found":
            # A deployment may have stored it. Then that has its items, so that this store can't have them.
            self._done(None)
        elif not self._shared.memory.take(request.address, 2 * len(found.answer)):
            self._done(self._shared.memory.refusal(request.address, 2 * len(found.answer)))
        else:
            request.stored_bytes = 2 * len(found.answer)
            self._done(self._take(conversation(decode_stored(found.answer)), self._previous_id))

    def _stores(self, *, continues: bool) -> bool:
        """True if the response is to be stored here. A request that continues a stored response and says nothing of its own has it stored:
        else the conversation would go on in the store of a vendor, whose default it is, or could not go on.
        """
        request = self._request
        if request.free or not self._shared.settings.stored_response_days:
            return False
        wish = _wish(request.parsed)
        return wish == _TRUE or (continues and wish == _NULL)

    def _take(self, before: list[Raw], previous_id: str | None) -> Refusal | None:
        """Give the request the body that is sent. Returns the refusal of one that is too large or can't be read."""
        request, settings = self._request, self._shared.settings
        fields, stores = request.parsed.fields, self._stores(continues=previous_id is not None)
        try:
            items = before + input_items(fields["input"])
        except UNREADABLE:
            return Refusal(400, "invalid_body", "input has to be a text or a list of items", param="input")
        if stores and sum(map(len, items)) > settings.replay_answer_bytes_max:
            return _too_large("to be stored", settings.replay_answer_bytes_max)
        # What continues a stored response is not stored at a vendor, whose default that may be, also where nothing is stored here.
        store = stores or "store" in fields or (previous_id is not None and not request.free)
        body = stored_body(fields, items, store=store)
        if len(body) > settings.body_bytes_max:
            return _too_large("with the response that it continues", settings.body_bytes_max)
        if len(body) > UNCOUNTED_BYTES:
            # It is beside the client's body, whose items are kept.
            if not self._shared.memory.take(request.address, len(body)):
                return self._shared.memory.refusal(request.address, len(body))
            request.stored_bytes += len(body)
        refusal = read_body(request, body)
        if refusal is None and stores:
            request.stored = ResponseToStore(items, previous_id)
        return refusal


def _too_large(what: str, bytes_max: int) -> Refusal:
    return Refusal(
        413, "response_too_large", f"the input is too large {what}: {bytes_max} bytes are the most"
    )
