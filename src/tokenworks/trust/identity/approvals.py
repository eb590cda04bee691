"""Approvals: an operation above a limit of money needs two persons. One requests it, another approves it, and it can run once.

An approval itself runs nothing: the first person sends the same request again. So every operation takes the one normal path, with the
checks that apply at that time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, Conflict, NotFound, format_money, uuid7
from tokenworks.trust.errors import NotAllowed
from tokenworks.trust.identity import approval_store as store
from tokenworks.trust.identity.money_moves import ACTIONS
from tokenworks.trust.vault.skeleton import skeleton

# How long a request for approval, and its approval, are valid.
APPROVAL_LIFE: Final = timedelta(days=7)
LIST_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Approval:
    """A requested or decided approval. `key`: the idempotency key of the operation; empty if it has none."""

    approval_id: UUID
    action: str
    ref: str
    key: str
    amount_nano: int
    asked_by: str
    asked_at: datetime
    state: Literal["open", "approved", "refused", "used"] = "open"
    decided_by: str | None = None
    decided_at: datetime | None = None


class ApprovalNeeded(Conflict):
    """The operation is above what one person may do. The caller rolls its transaction back, and then stores `wanted` with
    `Approvals.ask`.
    """

    def __init__(self, wanted: Approval, limit_nano: int) -> None:
        super().__init__(
            f"{format_money(wanted.amount_nano)} yuan are above what one person may do ({format_money(limit_nano)}): another "
            f"one approves {wanted.approval_id} first (`tokenworks approval give`), then send the same again"
        )
        self.wanted = wanted


class ApprovalNotFound(NotFound):
    """No such approval is requested, or it is decided or expired."""


class Approvals:
    """The approvals, on one connection. `above_nano`: the largest amount that one person may move alone."""

    def __init__(self, connection: Connection, clock: Clock, above_nano: int) -> None:
        self._connection = connection
        self._clock = clock
        self._above_nano = above_nano

    def check(self, actor: str, action: str, ref: str, amount_nano: int, key: str | None = None) -> None:
        """Check that an operation is below the limit or approved, in the operation's transaction. `action`: one of
        `money_moves.ACTIONS`. Raises `ApprovalNeeded`.
        """
        assert action in ACTIONS, f"{action} is not in the table of what moves money"
        if amount_nano <= self._above_nano:
            return
        now = self._clock.now()
        row = store.lock_matching(
            self._connection, action, ref, key or "", amount_nano, skeleton_of(actor), now - APPROVAL_LIFE
        )
        found = None if row is None else Approval(*row)
        if found is not None and found.state in {"approved", "used"}:
            store.mark_used(self._connection, found.approval_id, now)
            return
        wanted = found or Approval(uuid7(), action, ref, key or "", amount_nano, actor, now)
        raise ApprovalNeeded(wanted, self._above_nano)

    def ask(self, wanted: Approval) -> None:
        """Store a request for approval. A repeated call changes nothing."""
        store.add(self._connection, wanted, skeleton_of(wanted.asked_by))

    def decide(self, approval_id: UUID, actor: str, *, approve: bool) -> Approval:
        """Approve or refuse a request, as the second person. Raises `ApprovalNotFound`, `NotAllowed`."""
        with self._connection.transaction():
            row = store.lock(self._connection, approval_id)
            found = None if row is None else Approval(*row)
            now = self._clock.now()
            if found is None or found.state != "open" or now - found.asked_at >= APPROVAL_LIFE:
                raise ApprovalNotFound("there is no such approval to be given: `tokenworks approval list`")
            if approve and skeleton_of(actor) == skeleton_of(found.asked_by):
                raise NotAllowed("the person who asked can't approve: it takes a second person")
            state: Literal["approved", "refused"] = "approved" if approve else "refused"
            store.decide(self._connection, approval_id, state, actor, now)
        return Approval(*store.get(self._connection, approval_id))

    def all(self, state: str | None = None, offset: int = 0, limit: int = 100) -> tuple[list[Approval], int]:
        """(a page of approvals, newest first; the count of all)."""
        rows, count = store.page(self._connection, state, offset, min(limit, LIST_MAX))
        return [Approval(*row) for row in rows], count


def skeleton_of(actor: str) -> str:
    """The skeleton of a person's name. It is the same on the command line and over HTTP, and for names that look alike."""
    return skeleton(actor.removeprefix("cli:"))
