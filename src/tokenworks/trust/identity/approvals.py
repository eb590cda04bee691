"""Two persons for money above a limit: one asks, another one approves, and what was asked can be done once.

Nothing is done by approving: whoever asked sends the same again. So what is done has gone through the one way that there is, with
what holds at that time.
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

# After that it has to be asked for again.
APPROVAL_LIFE: Final = timedelta(days=7)
LIST_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Approval:
    """`key` is the idempotency key of what was asked for; empty where it had none."""

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
    """It is more than one person may do. Nothing was done; `wanted` is to be kept with `Approvals.ask`, after whatever was begun
    is rolled back.
    """

    def __init__(self, wanted: Approval, limit_nano: int) -> None:
        super().__init__(
            f"{format_money(wanted.amount_nano)} yuan are above what one person may do ({format_money(limit_nano)}): another "
            f"one approves {wanted.approval_id} first (`tokenworks approval give`), then send the same again"
        )
        self.wanted = wanted


class ApprovalNotFound(NotFound):
    """No such approval is asked for, or it is decided."""


class Approvals:
    """On one connection. `above_nano`: what one person may do alone."""

    def __init__(self, connection: Connection, clock: Clock, above_nano: int) -> None:
        self._connection = connection
        self._clock = clock
        self._above_nano = above_nano

    def check(self, actor: str, action: str, ref: str, amount_nano: int, key: str | None = None) -> None:
        """In the transaction of what is done. `action` is one of `money_moves`. Raises `ApprovalNeeded`."""
        assert action in ACTIONS, f"{action} is not in the table of what moves money"
        if amount_nano <= self._above_nano:
            return
        now = self._clock.now()
        row = store.lock_matching(
            self._connection, action, ref, key or "", amount_nano, skeleton_of(actor), now - APPROVAL_LIFE
        )
        found = None if row is None else Approval(*row)
        if found is not None and found.state in {"approved", "used"}:
            store.used(self._connection, found.approval_id, now)
            return
        wanted = found or Approval(uuid7(), action, ref, key or "", amount_nano, actor, now)
        raise ApprovalNeeded(wanted, self._above_nano)

    def ask(self, wanted: Approval) -> None:
        """Keep what is asked for; once."""
        store.add(self._connection, wanted, skeleton_of(wanted.asked_by))

    def decide(self, approval_id: UUID, actor: str, *, approve: bool) -> Approval:
        """By another person than the one who asked. Raises `ApprovalNotFound`, `NotAllowed`."""
        with self._connection.transaction():
            row = store.lock(self._connection, approval_id)
            found = None if row is None else Approval(*row)
            now = self._clock.now()
            if found is None or found.state != "open" or now - found.asked_at >= APPROVAL_LIFE:
                raise ApprovalNotFound("there is no such approval to be given: `tokenworks approval list`")
            if approve and skeleton_of(actor) == skeleton_of(found.asked_by):
                raise NotAllowed("whoever asked can't approve: it takes a second person")
            state: Literal["approved", "refused"] = "approved" if approve else "refused"
            store.decide(self._connection, approval_id, state, actor, now)
        return Approval(*store.get(self._connection, approval_id))

    def all(self, state: str | None = None, offset: int = 0, limit: int = 100) -> tuple[list[Approval], int]:
        """A page, newest first, and how many there are."""
        rows, count = store.page(self._connection, state, offset, min(limit, LIST_MAX))
        return [Approval(*row) for row in rows], count


def skeleton_of(actor: str) -> str:
    """A person is the same on the command line and over HTTP, and under names that look alike."""
    return skeleton(actor.removeprefix("cli:"))
