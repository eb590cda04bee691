"""Grants: leases of bucket quantity to hosts. Recorders request and close them; operators list and write them off."""

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
    """The grants of all hosts."""

    # Calls of a host's recorder.

    def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]:
        return bucket_store.load_terms(self._connection, UUID(account_id), self._clock.now())

    def window_back_s(self, account_id: str, bucket_ids: Sequence[str]) -> int:
        """Seconds until each of these windows regains its oldest use, at least 1."""
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

    # Batched calls of a host's recorder, for many accounts at once.

    def load_terms_together(self, account_ids: Sequence[UUID]) -> list[list[tuple[BucketTerms, int]] | None]:
        """`load_terms` of each account. None: the caller must load this account with `load_terms`."""
        return turn_store.load_terms(self._connection, account_ids, self._clock.now())

    def turn(
        self,
        journal_id: UUID,
        grants: Sequence[turn_store.GrantRequest],
        closes: Sequence[turn_store.CloseRequest],
    ) -> tuple[list[GrantAnswer | None], list[bool]]:
        """Grant and close in one transaction: all of it, or nothing if the database refuses one statement.

        An answer of None or False means that the caller must repeat this request alone: a row was locked, or the request needs more
        than one statement.
        """
        now = self._clock.now()
        try:
            with self._connection.transaction():
                return (
                    turn_store.grant(self._connection, journal_id, grants, now),
                    turn_store.close(self._connection, journal_id, closes, now),
                )
        except (psycopg.DatabaseError, turn_store.LockedRowUnchanged):
            if self._connection.broken:
                raise
            return [None] * len(grants), [False] * len(closes)

    def count_prompts(self, account_ids: Sequence[UUID]) -> list[bool]:
        """`counts_prompts` of each account."""
        return turn_store.has_unit(self._connection, account_ids, "prompt", self._clock.now())

    # Calls of an operator.

    def grants(self, account_id: UUID | None = None, limit: int = 1000) -> list[DictRow]:
        """Open grants, oldest first."""
        return grant_store.grants(self._connection, account_id, limit)

    def find_grant(self, grant_id: UUID) -> DictRow | None:
        """A grant in any state."""
        account_id = whose_store.of_grant(self._connection, grant_id)
        return None if account_id is None else grant_store.find_grant(self._connection, account_id, grant_id)

    def request_grant_close(self, grant_id: UUID) -> None:
        """Ask the host of a grant to close it as soon as no request uses it. Raises `GrantNotFound`."""
        grant_store.request_grant_close(self._connection, self._account_of_grant(grant_id), grant_id)

    def write_off(self, grant_id: UUID) -> int:
        """Write off a grant of a lost host: its unsettled quantity returns to the bucket. Returns how much that is.

        Raises `GrantNotFound`, `GrantNotInDoubt`.
        """
        account_id = self._account_of_grant(grant_id)
        return grant_store.write_off(self._connection, account_id, grant_id, self._clock.now())

    def write_off_old(self, in_doubt_s: int) -> int:
        """Write off grants whose lease expired at least `in_doubt_s` ago: their hosts count as lost. Returns how many."""
        old = grant_store.grants_in_doubt_for(self._connection, in_doubt_s)
        for account_id, grant_id in old:
            grant_store.write_off(self._connection, account_id, grant_id, self._clock.now())
        return len(old)

    def in_doubt(self) -> tuple[int, int, int]:
        """Figures of the grants in doubt: (how many, their unused thousandths of tokens, seconds since the oldest lease expired)."""
        return grant_store.in_doubt(self._connection)

    def _account_of_grant(self, grant_id: UUID) -> UUID:
        account_id = whose_store.of_grant(self._connection, grant_id)
        if account_id is None:
            raise GrantNotFound(f"there is no open grant {grant_id}: tokenworks grant list")
        return account_id
