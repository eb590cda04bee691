"""Idempotency keys of requests: the first answer is kept, a repeat gets it again, another request under the key is refused.

One rule for HTTP routes and commands alike. A key belongs to its asker (a member of a subscriber, staff, an operator of the
command line): the same text of two askers is two keys. The services keep keys of their own beside their rows; those outlive
the answers that are kept here. An answer may name people, or be the only place where a new key's text is: it is encrypted under the
key of the subscriber who asked, or, of staff, under the installation's own.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, Conflict, Invalid, uuid7
from tokenworks.trust.identity import answer_store as store
from tokenworks.trust.vault.service import NO_PERSON, PersonVault

ANSWERS_KEPT: Final = timedelta(days=30)
# What a body is bound to, with its row and person.
_PLACE: Final = "kept_answer.body"
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

    def __init__(self, connection: Connection, clock: Clock, vault: PersonVault) -> None:
        self._connection = connection
        self._clock = clock
        self._vault = vault

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
        before, status, headers, plain, answer_id, person_id, sealed = found
        if before != request_hash:
            raise KeyReused(
                "the idempotency key was used for another request: repeat that one exactly, or take a new key"
            )
        if status is None:
            return None
        # Plain where it was kept before answers were encrypted.
        body = plain
        if sealed is not None and answer_id is not None:
            opening = self._vault.key(person_id or NO_PERSON)
            body = None if opening is None else opening.open_bytes(_PLACE, answer_id, sealed)
        return KeptAnswer(status, headers or {}, body or b"")

    def keep(self, asker: str, key: str, answer: KeptAnswer, person_id: UUID | None = None) -> None:
        """What a repeat of the request that began here gets. `person_id`: the subscriber who asked; None: staff."""
        answer_id = uuid7()
        sealing = self._vault.own() if person_id is None else self._vault.key(person_id)
        # One who was erased by the very request gets no more than its status again.
        sealed = None if sealing is None else sealing.seal_bytes(_PLACE, answer_id, answer.body)
        store.keep(self._connection, asker, key, answer.status, answer.headers, answer_id, person_id, sealed)
