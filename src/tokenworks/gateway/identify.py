"""The key of a request: the one in its head or, of several, the first that is known."""

from collections.abc import Callable
from typing import Final

from tokenworks.gateway.http.cors import refusal_of_key
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.keys import ForeignMisses, KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.refusals import unusable_key
from tokenworks.gateway.shared import Shared
from tokenworks.trust import FOREIGN_PREFIX

NO_KEY: Final = Refusal(
    401,
    "invalid_api_key",
    "no API key: send it as Authorization: Bearer twk_… or x-api-key",
    zh="未提供 API 密钥：请以 Authorization: Bearer twk_… 或 x-api-key 发送。",
)
BAD_KEY: Final = Refusal(
    401, "invalid_api_key", "this is not an API key of ours, or it has a typo: its checksum is wrong"
)
KEYS_AWAY: Final = Refusal(503, "database_away", "keys can't be looked up now", 1)

TOO_MANY_FOREIGN: Final = Refusal(
    429,
    "too_many_requests",
    "too many unknown keys of another system were tried from this address: try again later",
    60,
)

KeyCallback = Callable[[KeyEntry | None], None]
"""Called with the key's entry; None if the database can't be reached."""
RefusalCallback = Callable[[Refusal], None]


class Identification:
    __slots__ = ("_foreign_misses", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._foreign_misses = ForeignMisses()

    def fresh(self, head: Head) -> KeyEntry | None:
        """The head's remembered entry; None if the key has to be looked up."""
        entry: KeyEntry | None = head.key
        return entry if entry is not None and self._shared.loop.time() < entry.fresh_until_s else None

    def identify(
        self, conn: ClientConnection, head: Head, identified: KeyCallback, refuse: RefusalCallback
    ) -> None:
        """Call `identified` or `refuse`, at once or later."""
        entry = self.fresh(head)
        if entry is not None:
            identified(entry)
        elif head.raw_key is None:
            refuse(NO_KEY)
        elif head.origin is None and not head.other_keys:
            self._look_up(conn, head, head.raw_key, identified, refuse)
        else:
            self._one_of(conn, head, (head.raw_key, *head.other_keys), identified, refuse)

    def unusable(self, user: KeyEntry | None) -> Refusal | None:
        """The refusal of the key; None if it is valid."""
        if user is None:
            return KEYS_AWAY
        shared = self._shared
        return unusable_key(user, shared.keys.lacking, shared.clock.civil_ms())

    def _look_up(
        self, conn: ClientConnection, head: Head, text: str, identified: KeyCallback, refuse: RefusalCallback
    ) -> None:
        keys = self._shared.keys
        entry = keys.get(text, self._shared.loop.time())  # monotonic seconds, as the keys' own
        if entry is not None:
            head.key = entry
            identified(entry)
        elif not keys.well_formed(text):
            refuse(BAD_KEY)
        elif keys.foreign and text.startswith(FOREIGN_PREFIX) and not keys.was_known(text):
            self._look_up_foreign(conn.address, text, identified, refuse)
        elif not keys.look_up(text, identified):
            refuse(Refusal(503, "database_away", "too many unknown keys are asked for: try again", 1))

    def _look_up_foreign(
        self, address: str, text: str, identified: KeyCallback, refuse: RefusalCallback
    ) -> None:
        """Look up a key that may be of another system: it has no checksum, so its misses are limited by address."""
        counters = self._shared.stats.c
        if not self._foreign_misses.take(address, self._shared.loop.time()):
            counters["foreign_keys_limited"] += 1
            refuse(TOO_MANY_FOREIGN)
            return

        def answered(entry: KeyEntry | None) -> None:
            if entry is None or entry.known or entry.ended is not None:
                self._foreign_misses.give(address)
            else:
                counters["foreign_keys_unknown"] += 1
            identified(entry)

        if not self._shared.keys.look_up(text, answered):
            self._foreign_misses.give(address)
            refuse(Refusal(503, "database_away", "too many unknown keys are asked for: try again", 1))

    def _one_of(
        self,
        conn: ClientConnection,
        head: Head,
        texts: tuple[str, ...],
        identified: KeyCallback,
        refuse: RefusalCallback,
    ) -> None:
        """Identify the first known key of several. A page may use a key only if its origin is among the key's."""

        def answered(entry: KeyEntry | None) -> None:
            if entry is not None and not entry.known and len(texts) > 1:
                head.key = None
                self._one_of(conn, head, texts[1:], identified, refuse)
                return
            refusal = None if entry is None else refusal_of_key(head.origin, entry.origins)
            if refusal is not None:
                head.key = None
                refuse(refusal)
            else:
                identified(entry)

        def refused(refusal: Refusal) -> None:
            if len(texts) > 1 and refusal is BAD_KEY:
                self._one_of(conn, head, texts[1:], identified, refuse)
            else:
                refuse(refusal)

        self._look_up(conn, head, texts[0], answered, refused)
