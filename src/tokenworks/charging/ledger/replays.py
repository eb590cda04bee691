"""Stored answers: an answer is given again only while its own record is there, is complete, and is of the same account.

An answer is stored before its record is written, and is nothing without it. So a crash between the two leaves a row that names no
record: no answer is given for it, and none was charged. A crash after the record leaves both: the answer is given again, and not charged
again. A first request that may have been charged, and whose answer can't be given again, makes its idempotency key spent: a repeat is
refused rather than charged again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger import replay_store as store
from tokenworks.charging.ledger.replay_store import Claim, Name, Original, Row
from tokenworks.charging.messages import UsageRecord
from tokenworks.charging.replay import IDEMPOTENCY_KEY, STORED_CUT, STORED_RESPONSE, charged_counts
from tokenworks.charging.wiring_messages import ReplayFound, ReplayLookup, ReplayName, ReplayToKeep
from tokenworks.kernel import Clock
from tokenworks.trust import PersonVault

SHARDS: Final = 16
# Rows that one run deletes in each shard at a time.
DELETED_BATCH: Final = 1000
_PLACE: Final = "replay_answer.answer"
_NONE: Final = ReplayFound("none")
_IN_FLIGHT: Final = ReplayFound("in_flight")
_SPENT: Final = ReplayFound("spent")


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """`answer_bytes_max`: of one answer; `account_bytes_max`, `account_rows_max`: of an account's. `claim_s`: how long a request may be in
    flight.
    """

    answer_bytes_max: int
    account_bytes_max: int
    account_rows_max: int
    claim_s: int


@dataclass(frozen=True, slots=True)
class HostRecords:
    """What only the host knows, read before the database: its journal, its workers that live, and the account's records that are not
    settled, by id.
    """

    journal_id: UUID
    workers: frozenset[str]
    unsettled: Mapping[str, UsageRecord]


class Replays:
    """Stored answers, on one connection (autocommit)."""

    def __init__(
        self, connection: Connection, clock: Clock, vault: PersonVault, limits: ReplayLimits
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._vault = vault
        self._limits = limits
        self._claim_time = timedelta(seconds=limits.claim_s)

    def find(self, asked: ReplayLookup, host: HostRecords) -> ReplayFound:
        """The answer to give again, or why there is none. An unknown idempotency key is claimed for the request that asks."""
        name = self._name(asked.name)
        if asked.name.kind == STORED_RESPONSE:
            return self._stored(name, host)
        if asked.name.kind != IDEMPOTENCY_KEY:
            return self._cached(name, asked.age_max_s, host)
        with self._connection.transaction():
            return self._claimed(name, asked, host)

    def keep(self, kept: ReplayToKeep, person_id: UUID) -> bool:
        """Store an answer, encrypted under the key of `person_id`, the account's subscriber. Returns False if it is not stored: it is too
        large, the account has no room, the person is erased, or the claim is another request's. A key whose answer has no room is spent.
        """
        answer, name, is_claim = kept.answer, self._name(kept.name), kept.name.kind == IDEMPOTENCY_KEY
        answer_id, now = UUID(kept.name.request_id), self._clock.now()
        key = self._vault.key(person_id)
        sealed = None
        if answer is not None and key is not None and len(answer) <= self._limits.answer_bytes_max:
            sealed = key.seal_bytes(_PLACE, answer_id, answer)
        with self._connection.transaction():
            store.lock_account(self._connection, name.account_id)
            if self._vault.is_erased(UUID(kept.member_id)):
                # Its answers were deleted under this lock, and a request that was in flight then leaves nothing either.
                sealed = None
            if sealed is not None and not self._has_room(name, len(sealed), now):
                sealed = None
            if sealed is None and not is_claim:
                return False
            if not is_claim:
                claim = self._claim(
                    kept.name, kept.body_digest, kept.member_id, kept.worker_id, None, kept.expires_in_s
                )
                # An answer of the same name is replaced: this one is younger.
                if not store.claim(self._connection, name, claim):
                    store.take_over(self._connection, name, claim)
            filled = store.fill(
                self._connection,
                name,
                answer_id,
                UUID(kept.usage_id),
                None if sealed is None else person_id,
                kept.media_type,
                sealed,
            )
            return filled and sealed is not None

    def drop(self, name: ReplayName) -> None:
        """The first request with an idempotency key was refused, failed or was left: the key is free. A stored response is deleted."""
        if name.kind == STORED_RESPONSE:
            store.forget(self._connection, self._name(name))
            return
        store.drop(self._connection, self._name(name), UUID(name.request_id))

    def release_lost(self, account_id: UUID, request_ids: Sequence[UUID], host: HostRecords) -> int:
        """Free the idempotency keys of requests whose worker is gone, so that no other host waits for them. Returns how many. A key whose
        request has a complete record stays: its answer may have been delivered.
        """
        freed = 0
        with self._connection.transaction():
            for name, request_id in store.claims_of(self._connection, account_id, request_ids):
                if self._answered(account_id, request_id, host) is None:
                    store.forget(self._connection, name)
                    freed += 1
        return freed

    def forget_account(self, account_id: UUID) -> None:
        store.forget_account(self._connection, account_id)

    def forget_member(self, account_id: UUID, member_id: UUID) -> None:
        """Delete the answers to requests with keys of this member, in the transaction that destroys the member's key: an answer of a
        request in flight waits for its end, and is not stored then.
        """
        store.lock_account(self._connection, account_id)
        store.forget_member(self._connection, account_id, member_id)

    def delete_over(self) -> int:
        """Delete answers whose time is over, a batch of each shard of accounts. Returns how many."""
        now = self._clock.now()
        return sum(store.delete_over(self._connection, shard, now, DELETED_BATCH) for shard in range(SHARDS))

    # One row.

    def _name(self, name: ReplayName) -> Name:
        account_id = UUID(name.account_id)
        return Name(account_id, name.kind, self._vault.lookup.replay(account_id.bytes, name.digest))

    def _claim(
        self,
        name: ReplayName,
        body: bytes,
        member_id: str,
        worker_id: str,
        journal_id: UUID | None,
        expires_in_s: int,
    ) -> Claim:
        now = self._clock.now()
        return Claim(
            self._vault.lookup.replay(UUID(name.account_id).bytes, body),
            UUID(name.request_id),
            UUID(member_id),
            journal_id or UUID(int=0),
            UUID(worker_id),
            now,
            now + self._claim_time,
            now + timedelta(seconds=expires_in_s),
        )

    def _cached(self, name: Name, age_max_s: int, host: HostRecords) -> ReplayFound:
        row, now = store.find(self._connection, name, lock=False), self._clock.now()
        if row is None or row.usage_id is None or row.expires_at <= now:
            return _NONE
        if row.made_at + timedelta(seconds=age_max_s) <= now:
            return _NONE
        original = self._original(name.account_id, row.usage_id, host)
        if original is None or original.state != "complete":
            return _NONE
        return self._opened(row, row.usage_id, original, now) or _NONE

    def _stored(self, name: Name, host: HostRecords) -> ReplayFound:
        """The stored response of this name. A stream that was cut has an interrupted record. A whole response has a complete one: where
        its worker was killed before that, the recorder charges at most what the worker had reported of it. A record that another host
        has not settled is waited for as long as its request may take.
        """
        row, now = store.find(self._connection, name, lock=False), self._clock.now()
        if row is None or row.usage_id is None or row.expires_at <= now:
            return _NONE
        original = self._original(name.account_id, row.usage_id, host)
        if original is None:
            return _IN_FLIGHT if now < row.claimed_until else _NONE
        if original.state != ("interrupted" if row.media_type == STORED_CUT else "complete"):
            return _NONE
        return self._opened(row, row.usage_id, original, now) or _NONE

    def _claimed(self, name: Name, asked: ReplayLookup, host: HostRecords) -> ReplayFound:
        now = self._clock.now()
        claim = self._claim(
            asked.name, asked.body_digest, asked.member_id, asked.worker_id, host.journal_id, asked.age_max_s
        )
        row = store.find(self._connection, name, lock=True)
        if row is None:
            store.lock_account(self._connection, name.account_id)
            if not self._make_room(name.account_id, 0, now, rows=True):
                return ReplayFound("full")
            # Another request with the key may have claimed it since: it is in flight.
            return _NONE if store.claim(self._connection, name, claim) else _IN_FLIGHT
        if row.usage_id is None and row.answer_id == claim.answer_id:
            # The request's own claim: a worker whose recorder went before its answer asks the next one again.
            return _NONE
        verdict = None if row.expires_at <= now else self._of_row(name, row, claim.body_hash, host, now)
        if verdict is None:
            store.take_over(self._connection, name, claim)
            return _NONE
        return verdict

    def _of_row(
        self, name: Name, row: Row, body_hash: bytes, host: HostRecords, now: datetime
    ) -> ReplayFound | None:
        """What a known idempotency key gives; None if its first request came to nothing, so that this one may claim it."""
        if row.body_hash != body_hash:
            return ReplayFound("other_request")
        original: Original | None
        if row.usage_id is not None:
            original = self._original(name.account_id, row.usage_id, host)
            if original is not None and original.state == "complete":
                return self._opened(row, row.usage_id, original, now) or _SPENT
            if original is not None:
                return (
                    None  # it was interrupted: what was charged is what was produced, and this is no answer
                )
        else:
            original = self._answered(name.account_id, row.answer_id, host)
            if original is not None:
                return _SPENT  # its answer could not be stored
        if row.journal_id == host.journal_id and row.worker_id.hex not in host.workers:
            return (
                None  # the worker is gone and its attempts are closed: this host has no complete record of it
            )
        if now < row.claimed_until:
            return _IN_FLIGHT
        if row.journal_id == host.journal_id and now >= row.claimed_until + self._claim_time:
            # It can't be in flight any more, and this host, whose request it was, has no complete record of it: its release was lost.
            return None
        return _SPENT

    def _original(self, account_id: UUID, usage_id: UUID, host: HostRecords) -> Original | None:
        """The record of an answer: not settled yet, or settled."""
        record = host.unsettled.get(usage_id.hex)
        if record is not None:
            return _of_record(record)
        return store.original(self._connection, account_id, usage_id)

    def _answered(self, account_id: UUID, request_id: UUID, host: HostRecords) -> Original | None:
        """The complete record of a request."""
        for record in host.unsettled.values():
            if record.request_id == request_id.hex and record.state == "complete":
                return _of_record(record)
        return store.answered(self._connection, account_id, request_id)

    def _opened(self, row: Row, usage_id: UUID, original: Original, now: datetime) -> ReplayFound | None:
        """The stored answer; None if it has none, or if its person is erased."""
        key = None if row.person_id is None else self._vault.key(row.person_id)
        if key is None or row.sealed is None:
            return None
        return ReplayFound(
            "found",
            usage_id.hex,
            original.request_id,
            original.counted_by,
            charged_counts(original.counts, original.losses),
            max(0, int((now - row.made_at).total_seconds())),
            row.media_type or "",
            key.open_bytes(_PLACE, row.answer_id, row.sealed),
            original.model,
            original.asked,
            original.choice,
        )

    def _has_room(self, name: Name, size: int, now: datetime) -> bool:
        """True if an answer of this size has room. Stored responses have at most half of an account's rows and bytes: they stay for
        weeks, and idempotency keys must go on to work beside them.
        """
        limits = self._limits
        if name.kind == STORED_RESPONSE:
            count, used = store.sums_of_kind(self._connection, name.account_id, name.kind, now)
            if 2 * (count + 1) > limits.account_rows_max or 2 * (used + size) > limits.account_bytes_max:
                return False
        return self._make_room(name.account_id, size, now, rows=name.kind != IDEMPOTENCY_KEY)

    def _make_room(self, account_id: UUID, size: int, now: datetime, *, rows: bool) -> bool:
        """Make room for an answer (`rows`: which adds a row) by deleting what is over and old answers of the cache. False if there is none."""
        limits = self._limits
        count, used = store.sums(self._connection, account_id)
        more_rows = max(0, count + rows - limits.account_rows_max)
        more_bytes = max(0, used + size - limits.account_bytes_max)
        if more_rows or more_bytes:
            rows_gone, bytes_gone = store.evict(self._connection, account_id, more_rows, more_bytes, now)
            return rows_gone >= more_rows and bytes_gone >= more_bytes
        return True


def _of_record(record: UsageRecord) -> Original:
    return Original(
        record.request_id,
        record.state,
        record.counted_by,
        record.c,
        record.loss,
        record.model,
        record.asked,
        record.choice,
    )
