"""Recalls: a host that needs quantity held by other hosts queues a recall, and they return what they do not use."""

from uuid import UUID

from tokenworks.charging.ledger import (
    recall_store,
)
from tokenworks.charging.ledger.part import LedgerPart


class Recalls(LedgerPart):
    """The queue of recalls."""

    def request_recall(self, account_id: str, journal_id: UUID) -> int:
        return recall_store.request_recall(self._connection, UUID(account_id), journal_id)

    def recall_answered(self, recall_id: int, account_id: str, journal_id: UUID) -> bool:
        return recall_store.recall_answered(self._connection, recall_id, UUID(account_id), journal_id)

    def end_recall(self, recall_id: int) -> None:
        recall_store.end_recall(self._connection, recall_id)

    def recalls_for(self, journal_id: UUID) -> list[tuple[int, str]]:
        return recall_store.recalls_for(self._connection, journal_id)

    def answer_recall(self, recall_id: int, journal_id: UUID) -> None:
        recall_store.answer_recall(self._connection, recall_id, journal_id)

    def delete_old_recalls(self) -> None:
        recall_store.delete_old_recalls(self._connection)
