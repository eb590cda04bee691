"""Sessions of staff on the console. A session is valid on the listener on which it was opened, and nowhere else."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, shown, uuid7
from tokenworks.trust.identity import staff_session_store as store
from tokenworks.trust.identity.roles import StaffRole
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac

Listener = Literal["public", "staff"]
SignInMethod = Literal["token", "totp", "recovery_code", "oidc"]
# Live sessions of one staff member: another one ends the oldest.
STAFF_SESSIONS_MAX: Final = 20
STAFF_SESSIONS_LISTED_MAX: Final = 1000
# The last use of a session is stored at most this often; the least idle limit is far above it.
STAFF_SEEN_EVERY: Final = timedelta(minutes=1)
CLIENT_CHARS_MAX: Final = 200
SESSIONS_KEPT: Final = timedelta(days=30)


class StaffSessionLimits(NamedTuple):
    """`idle`: without a request for so long, a session ends. `life`: after so long it ends in any case."""

    idle: timedelta
    life: timedelta


@dataclass(frozen=True, slots=True)
class StaffSession:
    """A live session of a staff member. `client`: what the browser calls itself. `seen_at`, `seen_address`: of the last use."""

    session_id: UUID
    staff_id: UUID
    name: str
    role: StaffRole
    listener: Listener
    method: SignInMethod
    created_at: datetime
    expires_at: datetime
    address: str | None
    client: str | None
    seen_at: datetime
    seen_address: str | None


class StaffSessions:
    """The sessions of staff, on one connection. `peppers` by version; the issuing one makes new MACs."""

    def __init__(
        self, connection: Connection, peppers: dict[int, bytes], clock: Clock, limits: StaffSessionLimits
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._limits = limits

    def open(
        self,
        staff_id: UUID,
        listener: Listener,
        method: SignInMethod,
        address: str | None,
        client: str | None,
    ) -> tuple[str, datetime]:
        """Open a session. Returns (its text, which cannot be read again; its end)."""
        text, now, version = f"two_{secrets.token_urlsafe(32)}", self._clock.now(), issuing(self._peppers)
        client = None if client is None else shown(client[:CLIENT_CHARS_MAX])[:CLIENT_CHARS_MAX]
        ends = now + self._limits.life
        mac = key_mac(self._peppers[version], f"staff_session:{text}")
        store.end_beyond(self._connection, staff_id, STAFF_SESSIONS_MAX - 1, now)
        store.add(
            self._connection, uuid7(), staff_id, mac, version, listener, method, now, ends, address, client
        )
        return text, ends

    def find(self, text: str, listener: Listener, address: str | None = None) -> StaffSession | None:
        """The live session with this text on this listener; None if there is none. Stores the time and address of this use.

        Raises `Unavailable` if the session is not found and this host lacks a pepper.
        """
        if not text.startswith("two_") or len(text) > 100:
            return None
        now = self._clock.now()
        macs = [key_mac(pepper, f"staff_session:{text}") for pepper in self._peppers.values()]
        row = store.find(self._connection, macs, listener, now, now - self._limits.idle)
        if row is None:
            check_no_pepper_missing(self._peppers)
            return None
        session = StaffSession(*row)
        moved = address is not None and address != session.seen_address
        if now - session.seen_at >= STAFF_SEEN_EVERY or moved:
            store.store_use(self._connection, session.session_id, now, address)
        return session

    def live(self, staff_id: UUID | None = None) -> list[StaffSession]:
        """The live sessions of a staff member, or of all staff, newest first."""
        now = self._clock.now()
        rows = store.live(self._connection, staff_id, now, now - self._limits.idle, STAFF_SESSIONS_LISTED_MAX)
        return [StaffSession(*row) for row in rows]

    def end(self, staff_id: UUID, session_id: UUID) -> bool:
        """End a session of a staff member. Returns False if it has ended, or is another's."""
        return store.end(self._connection, staff_id, session_id, self._clock.now())

    def is_of(self, staff_id: UUID, session_id: UUID) -> bool:
        """True if the session is, or was, one of the staff member's."""
        return store.is_of(self._connection, staff_id, session_id)

    def end_all(self, staff_id: UUID, keep: UUID | None = None, method: SignInMethod | None = None) -> int:
        """End the live sessions of a staff member, except `keep`; with `method`: those that were opened so. Returns how many."""
        return store.end_all(self._connection, staff_id, self._clock.now(), keep, method)

    def forget_old(self) -> None:
        """Delete sessions that ended long ago."""
        store.delete_old(self._connection, self._clock.now() - SESSIONS_KEPT)
