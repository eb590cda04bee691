"""Idempotency keys of requests: the first answer is stored, a repeated request gets it again, another request with the key is refused.

HTTP routes and commands follow the same rule. A key belongs to its asker (a member of a subscriber, staff, or an operator of the
command line): the same text from two askers is two keys. Services store their own keys with their rows, for longer than the answers
are stored here. An answer can name people, or contain the text of a new API key. So it is encrypted: under the key of the subscriber
who made the request, or, for staff, under the installation's own key.
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
# The column to which a body is bound when it is encrypted, together with its row and person.
_PLACE: Final = "kept_answer.body"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")


class KeyReused(Conflict):
    """The idempotency key was used with another request before."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to a request, as it is stored for repeats."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Answers:
    """The stored answers, on one connection. `begin` and `keep` run in the transaction of the request."""

    def __init__(self, connection: Connection, clock: Clock, vault: PersonVault) -> None:
        self._connection = connection
        self._clock = clock
        self._vault = vault

    def begin(self, asker: str, key: str, request: bytes) -> StoredAnswer | None:
        """The stored answer if this request is a repeat. None if it is new, or if its answer was not stored (a command has none).

        `request`: a canonical form of the request; two requests with equal forms are the same. Raises `KeyReused`, `Invalid`.
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
            return None  # the row was deleted meanwhile because of its age
        before, status, headers, plain, answer_id, person_id, sealed = found
        if before != request_hash:
            raise KeyReused(
                "the idempotency key was used for another request: repeat that one exactly, or take a new key"
            )
        if status is None:
            return None
        # Earlier releases stored a plain body.
        body = plain
        if sealed is not None and answer_id is not None:
            person_key = self._vault.key(person_id or NO_PERSON)
            body = None if person_key is None else person_key.open_bytes(_PLACE, answer_id, sealed)
        return StoredAnswer(status, headers or {}, body or b"")

    def keep(self, asker: str, key: str, answer: StoredAnswer, person_id: UUID | None = None) -> None:
        """Store the answer to a request for its repeats. `person_id`: the subscriber who made the request; None: staff."""
        answer_id = uuid7()
        person_key = self._vault.own() if person_id is None else self._vault.key(person_id)
        # If this request has erased the subscriber, there is no key: a repeat gets the status without a body.
        sealed = None if person_key is None else person_key.seal_bytes(_PLACE, answer_id, answer.body)
        store.keep(self._connection, asker, key, answer.status, answer.headers, answer_id, person_id, sealed)
