"""Protective limits: an operator sets them, hosts lease shares of them. They do not concern money."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg.rows import DictRow

from tokenworks.charging.errors import (
    LimitNotFound,
)
from tokenworks.charging.host.limit_window import Lease
from tokenworks.charging.ledger import (
    limit_store,
)
from tokenworks.charging.ledger.part import LedgerPart
from tokenworks.charging.messages import Limit
from tokenworks.kernel import Invalid

LIMIT_MAX: Final = 10**12


class Limits(LedgerPart):
    """Limits of requests per minute, tokens per minute and concurrent requests."""

    def set_limit(
        self,
        scope: str,
        ref: str,
        account_id: UUID | None,
        *,
        requests_per_min: int | None,
        tokens_per_min: int | None,
        streams_max: int | None,
    ) -> UUID:
        """Set or replace the limit of a key, member or subscriber (by id) or of a deployment (by name). Raises `Invalid`."""
        given = [value for value in (requests_per_min, tokens_per_min, streams_max) if value is not None]
        if not given or any(not 0 < value <= LIMIT_MAX for value in given):
            raise Invalid(
                f"a limit says how many requests or tokens a minute, or requests at once: 1 to {LIMIT_MAX}"
            )
        if len(limit_store.limits(self._connection)) >= limit_store.LIMITS_MAX:
            raise Invalid(f"there are at most {limit_store.LIMITS_MAX} limits")
        return limit_store.set_limit(
            self._connection, scope, ref, account_id, requests_per_min, tokens_per_min, streams_max
        )

    def remove_limit(self, limit_id: UUID) -> None:
        """Raises `LimitNotFound`."""
        if not limit_store.remove_limit(self._connection, limit_id):
            raise LimitNotFound(f"there is no limit {limit_id}: tokenworks limit list")

    def limits(self) -> list[DictRow]:
        return limit_store.limits(self._connection)

    def limits_of(self, refs: Sequence[tuple[str, str]]) -> list[tuple[str, Limit]]:
        """(scope, limit) of each limit that applies to one of these (scope, ref)."""
        return limit_store.limits_of(self._connection, refs)

    def limits_by_ref(
        self, refs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], list[tuple[str, Limit]]]:
        """`limits_of` for each (scope, ref) that has a limit."""
        found: dict[tuple[str, str], list[tuple[str, Limit]]] = {}
        for scope, ref, limit in limit_store.limits_by_ref(self._connection, refs):
            found.setdefault((scope, ref), []).append((scope, limit))
        return found

    def deployment_limits(self) -> dict[str, Limit]:
        return limit_store.deployment_limits(self._connection)

    def lease_limit(self, journal_id: UUID, limit: Limit, requests: int, tokens: int, streams: int) -> Lease:
        return limit_store.lease_limit(self._connection, journal_id, limit, requests, tokens, streams)

    def return_lease(self, journal_id: UUID, limit_id: str, requests: int, tokens: int) -> None:
        limit_store.return_lease(self._connection, journal_id, UUID(limit_id), requests, tokens)
