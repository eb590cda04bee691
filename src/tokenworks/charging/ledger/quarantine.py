"""Quarantine: usage records that the database refused, stored until an operator releases or drops them."""

from uuid import UUID

from psycopg.rows import DictRow

from tokenworks.charging.errors import (
    RecordRefused,
)
from tokenworks.charging.ledger import (
    quarantine_store,
    settle_store,
)
from tokenworks.charging.ledger.part import LedgerPart
from tokenworks.charging.model import (
    RateLookup,
)


class Quarantine(LedgerPart):
    """The usage records that settlement refused."""

    def quarantined(self, limit: int = 1000) -> list[DictRow]:
        """The records in quarantine, oldest first."""
        return quarantine_store.quarantined(self._connection, limit)

    def decide_quarantine(self, quarantine_id: UUID, *, release: bool, rates: RateLookup) -> None:
        """Settle a quarantined record (`release`), or drop it, so that it is never charged.

        Raises `QuarantineNotFound`, and `RecordRefused` if the database still refuses the record.
        """
        state = "released" if release else "dropped"
        try:
            quarantine_store.decide_quarantine(
                self._connection, quarantine_id, state, rates, self._clock.now()
            )
        except settle_store.REFUSALS as error:
            raise RecordRefused(f"it is still refused: {error}".splitlines()[0]) from error
