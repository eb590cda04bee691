"""Grants: what the ledger leases to hosts, as their recorders ask for it and as an operator sees it."""

from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from tokenworks.charging.errors import (
    GrantNotFound,
)
from tokenworks.charging.ledger import (
    bucket_store,
    grant_store,
    turn_store,
    whose_store,
    window_store,
)
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.ledger.part import LedgerPart
from tokenworks.charging.messages import BucketTerms


class Grants(LedgerPart):
    """What hosts may spend of the buckets."""

    # As a host's recorder asks.

    def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]:
        return bucket_store.load_terms(self._connection, UUID(account_id), self._clock.now())

    def window_back_s(self, account_id: str, bucket_ids: Sequence[str]) -> int:
        """Seconds until the first use of each of these windows has come back, at least 1."""
        return window_store.window_back_s(
            self._connection, UUID(account_id), [UUID(bucket) for bucket in bucket_ids], self._clock.now()
        )

    def granted_elsewhere(self, account_id: str, journal_id: UUID) -> int:
        return grant_store.granted_elsewhere(self._connection, UUID(account_id), journal_id)

    def grant(
        self,
        *,
        account_id: str,
        bucket_id: str,
        journal_id: UUID,
        grant_id: str | None,
        amount: int,
        spend_for_s: float,
    ) -> GrantAnswer | None:
        assert amount >= 0
        return grant_store.grant(
            self._connection,
            account_id=UUID(account_id),
            bucket_id=UUID(bucket_id),
            journal_id=journal_id,
            grant_id=None if grant_id is None else UUID(grant_id),
            amount=amount,
            spend_for_s=spend_for_s,
            now=self._clock.now(),
        )

    def close_grant(self, account_id: str, grant_id: str, journal_id: UUID, settled_seq: int) -> None:
        grant_store.close_grant(
            self._connection, UUID(account_id), UUID(grant_id), journal_id, settled_seq, self._clock.now()
        )

    def return_grant(self, account_id: str, grant_id: str, journal_id: UUID, amount: int) -> bool:
        return grant_store.return_grant(
            self._connection, UUID(account_id), UUID(grant_id), journal_id, amount, self._clock.now()
        )

    def open_grants(self, journal_id: UUID) -> list[tuple[str, str, str, int, int]]:
        return grant_store.open_grants(self._connection, journal_id)

    def open_grants_of(self, account_id: str, journal_id: UUID) -> list[tuple[str, str, int, int]]:
        return grant_store.open_grants_of(self._connection, UUID(account_id), journal_id)

    # A turn of a host's recorder: what waits of many accounts, made together.

    def load_terms_together(self, account_ids: Sequence[UUID]) -> list[list[tuple[BucketTerms, int]] | None]:
        """`load_terms` of each; None: to be loaded by itself."""
        return turn_store.load_terms(self._connection, account_ids, self._clock.now())

    def turn(
        self,
        journal_id: UUID,
        asks: Sequence[turn_store.GrantRequest],
        closes: Sequence[turn_store.CloseRequest],
    ) -> tuple[list[GrantAnswer | None], list[bool]]:
        """Grants and closings in one transaction, all of them or (where the database refuses one) none. What is None or False
        is to be asked for by itself: a row of its was locked, or it needs more than a statement.
        """
        now = self._clock.now()
        try:
            with self._connection.transaction():
                return (
                    turn_store.grant(self._connection, journal_id, asks, now),
                    turn_store.close(self._connection, journal_id, closes, now),
                )
        except (psycopg.DatabaseError, turn_store.LockedRowUnchanged):
            if self._connection.broken:
                raise
            return [None] * len(asks), [False] * len(closes)

    def count_prompts(self, account_ids: Sequence[UUID]) -> list[bool]:
        """`counts_prompts` of each."""
        return turn_store.has_unit(self._connection, account_ids, "prompt", self._clock.now())

    # As an operator sees them.

    def grants(self, account_id: UUID | None = None, limit: int = 1000) -> list[DictRow]:
        """Open grants, oldest first."""
        return grant_store.grants(self._connection, account_id, limit)

    def find_grant(self, grant_id: UUID) -> DictRow | None:
        """A grant in whatever state."""
        account_id = whose_store.of_grant(self._connection, grant_id)
        return None if account_id is None else grant_store.find_grant(self._connection, account_id, grant_id)

    def ask_grant_back(self, grant_id: UUID) -> None:
        """Have a grant's host close it as soon as nothing runs on it. Raises `GrantNotFound`."""
        grant_store.ask_grant_back(self._connection, self._account_of_grant(grant_id), grant_id)

    def write_off(self, grant_id: UUID) -> int:
        """What a lost host did not settle is free again. Returns how much. Raises `GrantNotFound`, `GrantNotInDoubt`."""
        account_id = self._account_of_grant(grant_id)
        return grant_store.write_off(self._connection, account_id, grant_id, self._clock.now())

    def write_off_old(self, in_doubt_s: int) -> int:
        """Write off what has been past its lease for so long: its host is taken for lost. Returns how many grants."""
        old = grant_store.grants_in_doubt_for(self._connection, in_doubt_s)
        for account_id, grant_id in old:
            grant_store.write_off(self._connection, account_id, grant_id, self._clock.now())
        return len(old)

    def in_doubt(self) -> tuple[int, int, int]:
        """(grants, quantity, seconds since the oldest expired) of what is in doubt."""
        return grant_store.in_doubt(self._connection)

    def _account_of_grant(self, grant_id: UUID) -> UUID:
        account_id = whose_store.of_grant(self._connection, grant_id)
        if account_id is None:
            raise GrantNotFound(f"there is no open grant {grant_id}: tokenworks grant list")
        return account_id
