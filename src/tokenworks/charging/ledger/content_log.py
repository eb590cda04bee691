"""The log of requests and answers of a key whose holder turned it on: encrypted, bounded, deleted when its time is over.

Nothing is charged by it and no record depends on it: an entry that is not stored is counted by the worker, and that is all. An entry is
readable only with the key of the account's subscriber, so an erasure ends it at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.errors import ContentNotLogged
from tokenworks.charging.ledger import content_log_store as store
from tokenworks.charging.ledger.content_log_store import ContentLogEntry
from tokenworks.charging.wiring_messages import ContentToLog
from tokenworks.kernel import Clock
from tokenworks.trust import PersonVault

CONTENT_LOG_DAYS_MAX: Final = 30
SHARDS: Final = 16
# Rows that one run deletes in each shard at a time, and entries that a new one displaces at most.
DELETED_BATCH: Final = 1000
CONTENT_LOG_SHOWN_MAX: Final = 100
# Entries with their content that are in memory at once.
_READ_AT_ONCE: Final = 10
_REQUEST: Final = "content_log.request"
_ANSWER: Final = "content_log.answer"


@dataclass(frozen=True, slots=True)
class ContentLogLimits:
    """`days`: how long an entry is kept; 0: none is stored. `entry_bytes_max`: of a request and its answer; `account_bytes_max`: of an
    account's entries, as they are stored; `account_entries_max`: of an account, which bounds the time of the sums over it.
    """

    days: int
    entry_bytes_max: int
    account_bytes_max: int
    account_entries_max: int


@dataclass(frozen=True, slots=True)
class LoggedContent:
    """An entry with what was stored of the request and the answer, as they were sent. A part that is shorter than its size was cut."""

    entry: ContentLogEntry
    request: bytes
    answer: bytes


class ContentLog:
    """On one connection (autocommit)."""

    def __init__(
        self, connection: Connection, clock: Clock, vault: PersonVault, limits: ContentLogLimits
    ) -> None:
        assert 0 <= limits.days <= CONTENT_LOG_DAYS_MAX, f"an entry is kept for {limits.days} days"
        self._connection = connection
        self._clock = clock
        self._vault = vault
        self._limits = limits

    def keep(self, logged: ContentToLog, person_id: UUID, is_on: Callable[[], bool]) -> bool:
        """Store an entry, encrypted under the key of `person_id`, the account's subscriber. The oldest entries of the account make room.
        Returns False if it is not stored: it is too large, the person is erased, or the log is off for all or (`is_on()`) for the key.

        `is_on` is asked under the account's lock, which whoever deletes entries takes after the log was turned off or the key revoked: so
        no entry comes after its deletion.
        """
        limits, key = self._limits, self._vault.key(person_id)
        size = len(logged.request) + len(logged.answer)
        if not limits.days or key is None or size > limits.entry_bytes_max:
            return False
        account_id, entry_id, now = UUID(logged.account_id), UUID(logged.request_id), self._clock.now()
        request = key.seal_bytes(_REQUEST, entry_id, logged.request)
        answer = key.seal_bytes(_ANSWER, entry_id, logged.answer)
        stored = len(request) + len(answer)
        if stored > limits.account_bytes_max:
            return False
        entry = ContentLogEntry(
            entry_id,
            UUID(logged.key_id),
            logged.protocol,
            logged.model,
            logged.outcome,
            logged.request_bytes,
            logged.answer_bytes,
            now,
            now + timedelta(days=limits.days),
        )
        with self._connection.transaction():
            store.lock_account(self._connection, account_id)
            if not is_on() or not self._make_room(account_id, stored):
                return False
            return store.add(
                self._connection, account_id, UUID(logged.member_id), person_id, entry, request, answer
            )

    def _make_room(self, account_id: UUID, size: int) -> bool:
        """Make room for an entry of `size` bytes, if there is none."""
        entries, stored = store.sums(self._connection, account_id)
        rows = entries + 1 - self._limits.account_entries_max
        more = stored + size - self._limits.account_bytes_max
        if rows <= 0 and more <= 0:
            return True
        gone, freed = store.evict(self._connection, account_id, rows, more, DELETED_BATCH)
        return gone >= rows and freed >= more

    def entries(
        self, account_id: UUID, key_id: UUID, before: UUID | None = None, limit: int = CONTENT_LOG_SHOWN_MAX
    ) -> Sequence[ContentLogEntry]:
        """The entries of a key without their content, newest first: at most `limit`, of requests before the request `before`."""
        return store.entries(self._connection, account_id, key_id, before, self._clock.now(), limit)

    def read(self, account_id: UUID, key_id: UUID, request_id: UUID) -> LoggedContent:
        """The entry of a request of this key. Raises `ContentNotLogged`."""
        found = store.find(self._connection, account_id, key_id, request_id, self._clock.now())
        key = None if found is None else self._vault.key(found[1])
        if found is None or key is None:
            raise ContentNotLogged("no such request of this key is logged, or it was deleted")
        entry, _, request, answer = found
        return LoggedContent(
            entry,
            key.open_bytes(_REQUEST, request_id, request),
            key.open_bytes(_ANSWER, request_id, answer),
        )

    def of_member(self, account_id: UUID, member_id: UUID) -> Iterator[LoggedContent]:
        """All entries of a member's keys, oldest first."""
        last = UUID(int=0)
        while found := store.of_member(
            self._connection, account_id, member_id, last, self._clock.now(), _READ_AT_ONCE
        ):
            keys = self._vault.keys({person_id for _, person_id, _, _ in found})
            for entry, person_id, request, answer in found:
                last = entry.request_id
                if person_id in keys:
                    key = keys[person_id]
                    yield LoggedContent(
                        entry, key.open_bytes(_REQUEST, last, request), key.open_bytes(_ANSWER, last, answer)
                    )

    def delete(self, account_id: UUID, key_id: UUID, request_id: UUID | None = None) -> int:
        """Delete the entry of a request, or (None) all entries of the key. Returns how many."""
        with self._connection.transaction():
            store.lock_account(self._connection, account_id)
            return store.delete(self._connection, account_id, key_id, request_id)

    def forget_account(self, account_id: UUID) -> None:
        with self._connection.transaction():
            store.lock_account(self._connection, account_id)
            store.forget_account(self._connection, account_id)

    def forget_member(self, account_id: UUID, member_id: UUID) -> None:
        """Delete the entries of this member's keys."""
        with self._connection.transaction():
            store.lock_account(self._connection, account_id)
            store.forget_member(self._connection, account_id, member_id)

    def delete_over(self) -> int:
        """Delete entries whose time is over, a batch of each shard of accounts. Returns how many."""
        now = self._clock.now()
        return sum(store.delete_over(self._connection, shard, now, DELETED_BATCH) for shard in range(SHARDS))
