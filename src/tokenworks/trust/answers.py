"""Idempotency keys of requests: the first answer is kept, a repeat gets it again, another request under the key is refused.

One rule for HTTP routes and commands alike. A key belongs to its asker (a member of a subscriber, staff, an operator of the
command line): the same text of two askers is two keys. The services keep keys of their own beside their rows; those outlive
the answers that are kept here.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tokenworks.kernel import Clock, Conflict, Invalid
from tokenworks.trust import answer_store as store
from tokenworks.trust.store import Connection

ANSWERS_KEPT: Final = timedelta(days=30)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")


class KeyReused(Conflict):
    """The idempotency key came with another request before."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Answers:
    """On one connection; `begin` and `keep` in the transaction of what the request does."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def begin(self, asker: str, key: str, request: bytes) -> KeptAnswer | None:
        """The answer that a repeat gets, or None where the request is new or its answer is not kept (a command's). `request`:
        what makes two requests the same, in one form. Raises `KeyReused`, `Invalid`.
        """
        if _KEY.fullmatch(key) is None:
            raise Invalid("an idempotency key is 1 to 200 visible ASCII characters")
        now = self._clock.now()
        request_hash = hashlib.sha256(request).digest()
        if store.claim(self._connection, asker, key, request_hash, now):
            store.delete_old(self._connection, now - ANSWERS_KEPT)
            return None
        found = store.find(self._connection, asker, key)
        if found is None:
            return None  # it was so old that it went meanwhile
        before, status, headers, body = found
        if before != request_hash:
            raise KeyReused(
                "the idempotency key was used for another request: repeat that one exactly, or take a new key"
            )
        return None if status is None else KeptAnswer(status, headers or {}, body or b"")

    def keep(self, asker: str, key: str, answer: KeptAnswer) -> None:
        """What a repeat of the request that began here gets."""
        store.keep(self._connection, asker, key, answer.status, answer.headers, answer.body)
