"""What a client does with a stored response: read it or its input, delete it, cancel it. Each costs nothing, and has OpenAI's shapes.

A response is read by keys of the member whose key stored it; for any other it is not there. Nothing is in flight under an id that can be
read, so a cancelled response is the response as it is.
"""

import re
from collections.abc import Callable
from typing import Final

from tokenworks.charging import REPLAY_DROP, REPLAY_LOOKUP, ReplayFound, ReplayLookup, ReplayName
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.paths import STORED_CHAT_HEAD, STORED_HEAD
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.stored import (
    ItemsPage,
    StoredResponse,
    decode_stored,
    deleted_body,
    items_body,
    read_items_page,
    response_body,
)
from tokenworks.gateway.protocol.stored_completions import deleted_body as deleted_completion
from tokenworks.gateway.protocol.stored_completions import messages_body
from tokenworks.gateway.request.replay import stored_name
from tokenworks.gateway.request.storing import IN_FLIGHT, NOT_KNOWN
from tokenworks.gateway.shared import Shared

_METHODS: Final = {"": (b"GET", b"HEAD", b"DELETE"), "input_items": (b"GET", b"HEAD"), "cancel": (b"POST",)}
_CHAT_METHODS: Final = {"": (b"GET", b"HEAD", b"DELETE"), "messages": (b"GET", b"HEAD")}

# A wish for events; OpenAI has them for responses in the background alone, which are not offered here.
_STREAMED: Final = re.compile(rb"(?:^|&)(?:stream=(?!false(?:&|$))|starting_after=)", re.IGNORECASE)

JsonWriter = Callable[[ClientConnection, int, bytes, Head], None]


def is_of_chat(path: str) -> bool:
    return path.startswith(STORED_CHAT_HEAD)


def _parts(path: str) -> tuple[str, str]:
    """(the id, what is done with it)."""
    name, _, action = path.removeprefix(STORED_CHAT_HEAD if is_of_chat(path) else STORED_HEAD).partition("/")
    return name, action


def refusal_of(head: Head) -> Refusal | None:
    """The refusal of a head that names no operation on a stored response."""
    name, action = _parts(head.path)
    methods = (_CHAT_METHODS if is_of_chat(head.path) else _METHODS).get(action)
    if methods is None or not name:
        return Refusal(404, "not_found", f"there is no {head.path} here")
    if head.method not in methods:
        taken = b", ".join(methods).decode()
        return Refusal(405, "method_not_allowed", f"{head.path} takes {taken}")
    if _STREAMED.search(head.query) is not None:
        return Refusal(
            400,
            "unsupported_operation",
            "a stored response is read as a whole and not streamed again: leave stream and starting_after out",
        )
    return None


class StoredRoute:
    """One operation. While it waits for the recorder it counts as a request of its key in flight."""

    __slots__ = ("_action", "_conn", "_head", "_name", "_of_chat", "_page", "_shared", "_user", "_write")

    def __init__(
        self, shared: Shared, conn: ClientConnection, head: Head, user: KeyEntry, write: JsonWriter
    ) -> None:
        self._shared = shared
        self._conn = conn
        self._head = head
        self._user = user
        self._write = write
        self._name, self._action = _parts(head.path)
        self._of_chat = is_of_chat(head.path)
        self._page: ItemsPage | None = None

    def run(self) -> None:
        shared, user = self._shared, self._user
        if self._action in {"input_items", "messages"}:
            page = read_items_page(self._head.query, "asc" if self._of_chat else "desc")
            if isinstance(page, Refusal):
                self._conn.refuse(page)
                return
            self._page = page
        limit = shared.settings.key_requests_max
        if user.in_flight >= limit:
            message = f"this key has {limit} requests in flight: wait for one to end"
            self._conn.refuse(Refusal(429, "too_many_requests", message, 1))
            return
        user.in_flight += 1
        question = ReplayLookup(self._stored_name(), b"", user.member_id, shared.client.worker_id, 0)
        shared.client.request(REPLAY_LOOKUP, question, self._answered)

    def _stored_name(self) -> ReplayName:
        user = self._user
        request_id = self._shared.ids.next()
        return stored_name(user.account_id, user.member_id, self._name, request_id, of_chat=self._of_chat)

    def _answered(self, found: ReplayFound | None) -> None:
        self._user.in_flight -= 1
        conn = self._conn
        if conn.transport is None:
            return
        if found is None:
            conn.refuse(NOT_KNOWN)
        elif found.verdict == "in_flight":
            conn.refuse(IN_FLIGHT)
        elif found.verdict != "found":
            conn.refuse(Refusal(404, "response_not_found", f"no stored answer has the id {self._name}"))
        elif self._head.method == b"DELETE":
            self._user.in_flight += 1
            self._shared.client.request(REPLAY_DROP, self._stored_name(), self._deleted)
        else:
            self._give(decode_stored(found.answer))

    def _give(self, stored: StoredResponse) -> None:
        body: bytes | None = response_body(stored)
        if self._page is not None:
            body = (messages_body if self._of_chat else items_body)(stored, self._page)
        if body is None:
            self._conn.refuse(Refusal(400, "invalid_body", "after names no item of this list", param="after"))
        else:
            self._write(self._conn, 200, body, self._head)

    def _deleted(self, _: None) -> None:
        """The answer is the same whether the database deleted the response or could not be reached: look whether it is gone."""
        question = ReplayLookup(
            self._stored_name(), b"", self._user.member_id, self._shared.client.worker_id, 0
        )
        self._shared.client.request(REPLAY_LOOKUP, question, self._looked_again)

    def _looked_again(self, found: ReplayFound | None) -> None:
        self._user.in_flight -= 1
        if self._conn.transport is None:
            return
        if found is None or found.verdict != "none":
            self._conn.refuse(NOT_KNOWN)
        else:
            body = (deleted_completion if self._of_chat else deleted_body)(self._name)
            self._write(self._conn, 200, body, self._head)
