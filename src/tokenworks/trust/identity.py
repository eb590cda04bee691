"""Who asks: one-time codes, sessions, staff and their roles. Texts are never kept, only their MACs under the pepper."""

import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from tokenworks.kernel import Clock, Invalid, check_line, uuid7
from tokenworks.trust import identity_store as store
from tokenworks.trust.errors import CodeWrong, StaffExists, StaffNotFound, TooManyCodes
from tokenworks.trust.model import key_mac
from tokenworks.trust.store import Connection
from tokenworks.trust.vault import NOBODY, PersonKey, PersonVault

CODE_DIGITS: Final = 6
CODE_LIFE: Final = timedelta(minutes=5)
CODE_ATTEMPTS_MAX: Final = 5
# (how many, in which time): codes for one number, and from one address.
CODES_PER_NUMBER: Final = ((1, timedelta(minutes=1)), (5, timedelta(hours=1)), (10, timedelta(days=1)))
CODES_PER_ADDRESS: Final = ((30, timedelta(hours=1)), (200, timedelta(days=1)))
SESSION_LIFE: Final = timedelta(days=7)
CODES_KEPT: Final = timedelta(days=7)
SESSIONS_KEPT: Final = timedelta(days=30)

StaffRole = Literal["operator", "finance", "auditor"]
Role = Literal["owner", "admin", "member", "operator", "finance", "auditor"]
STAFF_ROLES: Final = frozenset({"operator", "finance", "auditor"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a member of a subscriber, or staff (then both ids are None)."""

    name: str
    role: Role
    subscriber_id: UUID | None = None
    member_id: UUID | None = None
    session_id: UUID | None = None

    @property
    def is_staff(self) -> bool:
        return self.role in STAFF_ROLES

    @property
    def actor(self) -> str:
        """How what this one does is signed where it is kept: staff by name, a member by id, since its name is personal."""
        return self.name if self.is_staff else f"member:{self.member_id}"


class Identity:
    """On one connection. `peppers` by version; the highest is used."""

    def __init__(
        self, connection: Connection, peppers: dict[int, bytes], clock: Clock, vault: PersonVault
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._pepper = peppers[max(peppers)]
        self._clock = clock

    def _mac(self, kind: str, text: str) -> bytes:
        return key_mac(self._pepper, f"{kind}:{text}")

    # One-time codes.

    def request_code(self, identifier: str, address: str) -> str:
        """A new code for a phone or broadband number, asked for from an address. An earlier one is worth nothing any more.

        Whether anybody has the number plays no part. Raises `TooManyCodes`.
        """
        now, mac = self._clock.now(), self._mac("identifier", identifier)
        with self._connection.transaction():
            store.lock_codes(self._connection, mac)
            for column, value, limits in (
                ("identifier_mac", mac, CODES_PER_NUMBER),
                ("address", address, CODES_PER_ADDRESS),
            ):
                for count, span in limits:
                    oldest = store.nth_newest_code(self._connection, column, value, count, now - span)
                    if oldest is not None:
                        wait_s = max(1, int((oldest + span - now).total_seconds()) + 1)
                        raise TooManyCodes(f"a code was sent already: try again in {wait_s} s", wait_s)
            code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}d}"
            store.add_code(
                self._connection, uuid7(), mac, address, self._mac("code", f"{identifier}:{code}"), now
            )
        return code

    def check_code(self, identifier: str, code: str) -> None:
        """Use a code up. Five attempts each. Raises `CodeWrong`, which does not say what is wrong."""
        now, mac = self._clock.now(), self._mac("identifier", identifier)
        wrong = CodeWrong("the code is wrong, or too old: ask for a new one")
        with self._connection.transaction():
            found = store.lock_newest_code(self._connection, mac, now - CODE_LIFE)
            right = found is not None and found[2] < CODE_ATTEMPTS_MAX and hmac.compare_digest(
                found[1], self._mac("code", f"{identifier}:{code}")
            )  # fmt: skip
            if found is not None:
                store.attempted(self._connection, found[0], now if right else None)
        if not right:
            raise wrong

    # Sessions.

    def open_session(self, subscriber_id: UUID, member_id: UUID) -> tuple[str, datetime]:
        """(the session's text, which is shown this once; when it ends)."""
        text = f"tws_{secrets.token_urlsafe(32)}"
        ends = self._clock.now() + SESSION_LIFE
        store.add_session(
            self._connection,
            uuid7(),
            self._mac("session", text),
            subscriber_id,
            member_id,
            self._clock.now(),
            ends,
        )
        return text, ends

    def session(self, text: str) -> tuple[UUID, UUID, UUID] | None:
        """(session, subscriber, member) of a live session."""
        if not text.startswith("tws_") or len(text) > 100:
            return None
        return store.find_session(self._connection, self._mac("session", text), self._clock.now())

    def end_session(self, session_id: UUID) -> None:
        store.end_session(self._connection, session_id, self._clock.now())

    def end_sessions(self, subscriber_id: UUID) -> None:
        """Of a subscriber who is closed, or whose number has changed."""
        store.end_sessions(self._connection, subscriber_id, self._clock.now())

    def codes_of(self, identifier: str) -> list[dict[str, object]]:
        """When and from where codes were asked for with a number, as long as that is kept."""
        return store.codes_of(self._connection, self._mac("identifier", identifier))

    def forget_identifier(self, identifier: str) -> None:
        """The codes of a number whose person is erased."""
        store.delete_codes(self._connection, self._mac("identifier", identifier))

    def forget_old(self) -> None:
        """Codes that are long past, and sessions that ended long ago."""
        now = self._clock.now()
        store.delete_old(self._connection, now - CODES_KEPT, now - SESSIONS_KEPT)

    # Staff.

    def add_staff(self, name: str, role: StaffRole) -> str:
        """A member of the staff; its token's text, which is shown this once. Raises `StaffExists`, `Invalid`."""
        name = check_line(name, "a name")
        if role not in STAFF_ROLES:
            raise Invalid(f"a role is one of {', '.join(sorted(STAFF_ROLES))}")
        text = f"twf_{secrets.token_urlsafe(32)}"
        if not store.add_staff(
            self._connection, uuid7(), name, role, self._mac("staff", text), self._clock.now()
        ):
            raise StaffExists(f"there is a {name} already")
        return text

    def staff(self) -> list[dict[str, object]]:
        return store.all_staff(self._connection)

    def revoke_staff(self, name: str) -> None:
        """Raises `StaffNotFound`."""
        if not store.revoke_staff(self._connection, name, self._clock.now()):
            raise StaffNotFound(f"there is no {name} who could be revoked: `tokenworks staff list`")

    def staff_of(self, text: str) -> Principal | None:
        if not text.startswith("twf_") or len(text) > 100:
            return None
        found = store.find_staff(self._connection, self._mac("staff", text))
        return None if found is None else Principal(found[0], found[1])

    # The audit trail.

    def audit(
        self,
        actor: str,
        role: str,
        action: str,
        ref: str,
        before: object = None,
        after: object = None,
        person_id: UUID | None = None,
    ) -> None:
        """Write down who did what to what, in the transaction of what was done. How it was before and after is encrypted under
        the key of the person that it is about; None: nobody in particular. Of one who was erased it is not kept.
        """
        audit_id = uuid7()
        details = None
        key = self._vault.ensure(person_id or NOBODY) if person_id is None else self._vault.key(person_id)
        if key is not None and (before is not None or after is not None):
            details = key.seal("audit.details", audit_id, audit_details(before, after))
        store.add_audit(
            self._connection,
            audit_id,
            self._clock.now(),
            actor,
            role,
            action,
            ref,
            person_id or NOBODY,
            details,
        )

    def audited(
        self, ref: str | None = None, offset: int = 0, limit: int = 100
    ) -> tuple[list[dict[str, object]], int]:
        """A page of the audit trail, of one ref or all, newest first, and how many there are. What was written of one who was
        erased can't be read any more: `erased` says so.
        """
        rows, count = store.audits(self._connection, ref, offset, limit)
        keys = self._vault.keys(row["person_id"] or NOBODY for row in rows)
        return [self._opened(row, keys.get(row["person_id"] or NOBODY)) for row in rows], count

    @staticmethod
    def _opened(row: dict[str, Any], key: PersonKey | None) -> dict[str, object]:
        details = row.pop("details")
        row.pop("person_id")
        said: dict[str, object] = {"before": None, "after": None}
        if key is not None and details is not None:
            said = json.loads(key.open("audit.details", row["audit_id"], details))
        elif details is not None:
            said = {"before": None, "after": None, "erased": True}
        return {**row, **said}


def audit_details(before: object, after: object) -> str:
    """What is encrypted of a row of the audit trail."""
    return json.dumps({"before": before, "after": after}, default=str, ensure_ascii=False)
