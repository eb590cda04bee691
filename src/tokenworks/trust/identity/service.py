"""Identity: one-time codes, sessions, staff and the audit trail. Codes and tokens are stored only as MACs under the pepper."""

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from tokenworks.kernel import Clock, Invalid, check_line, shown, uuid7
from tokenworks.trust.errors import CodeWrong, StaffExists, StaffNotFound, TooManyCodes
from tokenworks.trust.identity import passkey_store, staff_session_store, store
from tokenworks.trust.identity.roles import STAFF_ROLES, Role, StaffRole
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac
from tokenworks.trust.vault.service import NO_PERSON, PersonKey, PersonVault
from tokenworks.trust.vault.skeleton import skeleton

CODE_DIGITS: Final = 6
CODE_LIFE: Final = timedelta(minutes=5)
CODE_ATTEMPTS_MAX: Final = 5
# If all askers together request this many codes for a number within a day, the number is under attack. Its codes are then longer and
# valid for longer: guessing is hopeless, its owner is never locked out, and its phone does not get a code for every request.
CODES_OF_ATTACK: Final = 20
CODE_DIGITS_OF_ATTACK: Final = 10
CODE_LIFE_OF_ATTACK: Final = timedelta(hours=1)
# A request for a code within this time after the last code was sent to the number shares that code.
SEND_EVERY: Final = timedelta(minutes=1)
# Limits as (codes, time span): of one asker for one number, and of one asker for all numbers. An IPv4 address can belong to the NAT of
# a carrier with thousands of customers (RFC 6598). So too many requests for one number from there do not lock out its owner: they
# count as an attack on the number. A /64 of IPv6 is one line, or one phone (RFC 6177, TS 23.401).
CODES_PER_NUMBER: Final = ((1, timedelta(minutes=1)), (5, timedelta(hours=1)), (10, timedelta(days=1)))
CODES_PER_IPV4: Final = ((1000, timedelta(hours=1)), (10_000, timedelta(days=1)))
CODES_PER_IPV6: Final = ((30, timedelta(hours=1)), (200, timedelta(days=1)))
SESSION_LIFE: Final = timedelta(days=7)
# The last use of a session or staff token is stored at most this often.
SEEN_EVERY: Final = timedelta(minutes=10)
SESSIONS_LISTED_MAX: Final = 1000
CLIENT_CHARS_MAX: Final = 200
ASKER_CHARS_MAX: Final = 64
STAFF_TOKEN_LIFE: Final = timedelta(days=90)
STAFF_OVERLAP_DEFAULT: Final = timedelta(days=1)
STAFF_OVERLAP_MAX: Final = timedelta(days=30)
# Prefixes by which the audit trail names actors that are no staff; a staff name must not begin with one.
RESERVED_NAMES: Final = ("cli:", "link:", "port:", "member:")
CODES_KEPT: Final = timedelta(days=7)
SESSIONS_KEPT: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller: a member of a subscriber, or staff. For staff, both ids are None."""

    name: str
    role: Role
    subscriber_id: UUID | None = None
    member_id: UUID | None = None
    session_id: UUID | None = None
    # The address of the caller, as the gateway verified it.
    address: str | None = None

    @property
    def is_staff(self) -> bool:
        return self.role in STAFF_ROLES

    @property
    def actor(self) -> str:
        """The caller's name in stored rows: the name of staff; the id of a member, whose name is personal data."""
        return self.name if self.is_staff else f"member:{self.member_id}"


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a member. `client`: what the browser calls itself. `seen_at`, `seen_address`: of the last use."""

    session_id: UUID
    member_id: UUID
    created_at: datetime
    expires_at: datetime
    address: str | None
    client: str | None
    seen_at: datetime | None
    seen_address: str | None


@dataclass(frozen=True, slots=True)
class Challenge:
    """The answer to a request for a code. `text`: the challenge, which the client sends back with the code. `code`: the code to send to
    the phone; None if the phone has just got a code, which is valid for this challenge, too.
    """

    text: str
    code: str | None


def asker_of(address: str) -> str:
    """The asker for whom limits count: an IPv4 address, or the /64 network of an IPv6 address. Other texts are returned as they are."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:ASKER_CHARS_MAX]
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))


def _is_ipv4(asker: str) -> bool:
    try:
        return isinstance(ip_address(asker), IPv4Address)
    except ValueError:
        return False


class Identity:
    """Codes, sessions, staff and the audit trail, on one connection. `peppers` by version; the issuing one makes new MACs."""

    def __init__(
        self,
        connection: Connection,
        peppers: dict[int, bytes],
        clock: Clock,
        vault: PersonVault,
        staff_token_life: timedelta = STAFF_TOKEN_LIFE,
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._vault = vault
        self._clock = clock
        self._staff_token_life = staff_token_life

    @property
    def _version(self) -> int:
        return issuing(self._peppers)

    def _mac(self, kind: str, text: str) -> bytes:
        return key_mac(self._peppers[self._version], f"{kind}:{text}")

    def _macs(self, kind: str, text: str) -> list[bytes]:
        """The MACs of a text under all peppers: a text that was stored under an earlier pepper stays valid."""
        return [key_mac(pepper, f"{kind}:{text}") for pepper in self._peppers.values()]

    # One-time codes.

    def request_code(self, identifier: str, address: str) -> Challenge:
        """Make a challenge, and a code if one must be sent, for a phone or broadband number. `address`: where the request comes from.

        Each asker is limited, for one number and in total. Requests of other askers for the number do not count, so no asker can lock
        out a number. An IPv4 address can be shared: beyond the limit for one number it is not refused, and the number counts as under
        attack. The result does not depend on whether the number belongs to a subscriber. Raises `TooManyCodes`.
        """
        now, mac, asker = self._clock.now(), self._mac("identifier", identifier), asker_of(address)
        is_shared, crowded = _is_ipv4(asker), False
        macs = self._macs("identifier", identifier)
        text = f"twc_{secrets.token_urlsafe(24)}"
        with self._connection.transaction():
            store.lock_codes(self._connection, min(macs))
            store.lock_codes(self._connection, min(self._macs("asker", asker)))
            for number, limits in (
                (macs, CODES_PER_NUMBER),
                (None, CODES_PER_IPV6 if ":" in asker else CODES_PER_IPV4),
            ):
                for count, span in limits:
                    oldest = store.nth_newest_code(self._connection, asker, number, count, now - span)
                    if oldest is not None and number is not None and is_shared:
                        # A second request within a minute is no attack: it shares the code.
                        crowded = crowded or count > 1
                    elif oldest is not None:
                        wait_s = max(1, int((oldest + span - now).total_seconds()) + 1)
                        raise TooManyCodes(f"a code was sent already: try again in {wait_s} s", wait_s)
            requested = store.count_codes(self._connection, macs, now - timedelta(days=1))
            attacked = crowded or requested >= CODES_OF_ATTACK
            digits = CODE_DIGITS_OF_ATTACK if attacked else CODE_DIGITS
            last = store.newest_sent(self._connection, macs)
            recent = (
                last is not None
                and last.used_at is None
                and last.digits >= digits
                and now < last.expires_at
                and (attacked or now - last.created_at < SEND_EVERY)
            )
            if recent and last is not None:
                code, code_mac, expires = None, last.code_mac, last.expires_at
            else:
                code = f"{secrets.randbelow(10**digits):0{digits}d}"
                code_mac = self._mac("code", f"{identifier}:{code}")
                expires = now + (CODE_LIFE_OF_ATTACK if attacked else CODE_LIFE)
            store.add_code(
                self._connection, uuid7(), mac, asker, code_mac, self._mac("challenge", text), now, expires, digits,
                sent=code is not None,
            )  # fmt: skip
        return Challenge(text, code)

    def not_sent(self, challenge: str) -> None:
        """Store that the code of a challenge could not be sent. No later request shares that code."""
        store.mark_not_sent(self._connection, self._macs("challenge", challenge), self._clock.now())

    def check_code(
        self, identifier: str, code: str, challenge: str | None = None, address: str = "local"
    ) -> None:
        """Check a code and use it up. The code must be that of the challenge, or, without a challenge of that number, the newest one that
        the same asker requested for it.

        A challenge, and an asker without one, have five attempts each, which no one else can use up. Raises `CodeWrong`, whose text does
        not tell what is wrong.
        """
        now, macs = self._clock.now(), self._macs("identifier", identifier)
        challenges = [] if challenge is None else self._macs("challenge", challenge)
        wrong = CodeWrong("the code is wrong, or too old: ask for a new one")
        with self._connection.transaction():
            # Attempts with challenges that share a code run one after the other, since the code is valid once.
            store.lock_codes(self._connection, min(macs))
            has_challenge = store.is_challenge_of(self._connection, macs, challenges)
            if has_challenge:
                found = store.lock_challenge(self._connection, challenges, now)
            else:
                found = store.lock_newest_code(self._connection, macs, asker_of(address), now)
            right = False
            if found is not None:
                attempts = found.attempts if has_challenge else found.asker_attempts
                right = attempts < CODE_ATTEMPTS_MAX and any(
                    hmac.compare_digest(found.code_mac, mac)
                    for mac in self._macs("code", f"{identifier}:{code}")
                )
                column = "attempts" if has_challenge else "asker_attempts"
                store.count_attempt(self._connection, found.code_id, column)
            if right and found is not None:
                # This uses up the code for all challenges that share it.
                store.use_up_code(self._connection, macs, found.code_mac, now)
        if not right:
            raise wrong

    # Sessions.

    def open_session(
        self,
        subscriber_id: UUID,
        member_id: UUID,
        address: str | None = None,
        client: str | None = None,
        continues: UUID | None = None,
    ) -> tuple[str, datetime]:
        """Open a session. Returns (the session's text, which cannot be read again; its end). `client`: what the browser calls itself.
        `continues`: the session from which this one is opened, without a code or passkey: it is as fresh as that one.
        """
        text, now = f"tws_{secrets.token_urlsafe(32)}", self._clock.now()
        ends = now + SESSION_LIFE
        client = None if client is None else shown(client[:CLIENT_CHARS_MAX])[:CLIENT_CHARS_MAX]
        proved_at = now if continues is None else store.proved_at(self._connection, continues)
        store.add_session(
            self._connection, uuid7(), self._mac("session", text), subscriber_id, member_id, now, ends, address, client,
            self._version, proved_at,
        )  # fmt: skip
        return text, ends

    def session(self, text: str, address: str | None = None) -> tuple[UUID, UUID, UUID] | None:
        """(session, subscriber, member) of a live session; None if there is none. Stores the time and address of this use.

        Raises `Unavailable` if the session is not found and this host lacks a pepper.
        """
        if not text.startswith("tws_") or len(text) > 100:
            return None
        now = self._clock.now()
        found = store.find_session(self._connection, self._macs("session", text), now)
        if found is None:
            check_no_pepper_missing(self._peppers)
            return None
        session_id, subscriber_id, member_id, seen_at, seen_address = found
        moved = address is not None and address != seen_address
        if seen_at is None or now - seen_at >= SEEN_EVERY or moved:
            store.store_session_use(self._connection, session_id, now, address)
        return session_id, subscriber_id, member_id

    def sessions(self, subscriber_id: UUID, member_id: UUID | None = None) -> list[Session]:
        """The live sessions of a subscriber, or of one of its members, newest first."""
        rows = store.sessions(
            self._connection, subscriber_id, member_id, self._clock.now(), SESSIONS_LISTED_MAX
        )
        return [Session(*row) for row in rows]

    def is_new_place(self, subscriber_id: UUID, member_id: UUID, address: str) -> bool:
        """True if a member has sessions, and none of them was opened by the asker with this address. Sessions are stored for
        `SESSIONS_KEPT` after their end.
        """
        count, known = store.places(self._connection, subscriber_id, member_id, SESSIONS_LISTED_MAX)
        return count > 0 and asker_of(address) not in {asker_of(one) for one in known}

    def end_other_sessions(
        self, subscriber_id: UUID, member_id: UUID | None, keep: UUID | None = None
    ) -> int:
        """End the live sessions of a member, or (None) of all members of the subscriber, except `keep`. Returns how many."""
        return store.end_sessions(self._connection, subscriber_id, self._clock.now(), member_id, keep)

    def end_session(self, session_id: UUID) -> bool:
        """End a session. Returns False if it has ended already."""
        return store.end_session(self._connection, session_id, self._clock.now())

    def has_session(self, subscriber_id: UUID, session_id: UUID) -> bool:
        """True if the session is, or was, one of the subscriber's."""
        return store.has_session(self._connection, subscriber_id, session_id)

    def end_sessions(self, subscriber_id: UUID) -> None:
        """End all sessions of a subscriber, and remove the passkeys of its members, for example because it is closed or its number has
        changed.
        """
        store.end_sessions(self._connection, subscriber_id, self._clock.now())
        passkey_store.remove_of_subscriber(self._connection, subscriber_id)

    def end_sessions_of(self, member_ids: Sequence[UUID]) -> None:
        """End the sessions of these members, and remove their passkeys, in any subscriber's account."""
        store.end_sessions_of(self._connection, list(member_ids), self._clock.now())
        passkey_store.remove_of_members(self._connection, member_ids)

    def codes_of(self, identifier: str) -> list[dict[str, object]]:
        """The stored requests for codes of a number: when, from where, attempts, and when the code was used."""
        return store.codes_of(self._connection, self._macs("identifier", identifier))

    def forget_places(self, subscriber_id: UUID, member_ids: Sequence[UUID] = ()) -> None:
        """Erase the addresses and clients in the sessions of an erased subscriber, and of its memberships in other accounts. Remove their
        passkeys.
        """
        store.forget_places(self._connection, subscriber_id, list(member_ids))
        passkey_store.remove_of_subscriber(self._connection, subscriber_id)
        passkey_store.remove_of_members(self._connection, member_ids)

    def forget_places_of_member(self, member_id: UUID) -> None:
        """Erase the addresses and clients in the sessions of an erased member, and remove its passkeys."""
        store.forget_places_of_member(self._connection, member_id)
        passkey_store.remove_of_members(self._connection, [member_id])

    def forget_identifier(self, identifier: str) -> None:
        """Delete the codes of a number whose person is erased."""
        store.delete_codes(self._connection, self._macs("identifier", identifier))

    def forget_old(self) -> None:
        """Delete old codes, and sessions that ended long ago."""
        now = self._clock.now()
        store.delete_old(self._connection, now - CODES_KEPT, now - SESSIONS_KEPT)

    # Staff.

    def add_staff(self, name: str, role: StaffRole) -> str:
        """Add a staff member. Returns the text of its token, which cannot be read again and expires after a time.

        A name that looks like that of another staff member is refused, even if that one is revoked, since the audit trail names both.
        Raises `StaffExists`, `Invalid`.
        """
        with self._connection.transaction():
            return self._new_token(self.add_staff_without_token(name, role))

    def add_staff_without_token(self, name: str, role: StaffRole) -> UUID:
        """Add a staff member that has no token until one is made by `rotate_staff`. Raises as `add_staff`."""
        name = check_line(name, "a name")
        if role not in STAFF_ROLES:
            raise Invalid(f"a role is one of {', '.join(sorted(STAFF_ROLES))}")
        looks = skeleton(name)
        if not looks or name.lower().startswith(RESERVED_NAMES):
            raise Invalid(
                f"a name has letters or digits, and does not begin with {', '.join(RESERVED_NAMES)}"
            )
        staff_id = uuid7()
        with self._connection.transaction():
            if not store.add_staff(self._connection, staff_id, name, looks, role, self._clock.now()):
                other = store.staff_of_skeleton(self._connection, looks)
                like = "" if other in {None, name} else f", which looks like {name}"
                raise StaffExists(f"there is a {other or name} already{like}")
        return staff_id

    def _new_token(self, staff_id: UUID) -> str:
        text, now = f"twf_{secrets.token_urlsafe(32)}", self._clock.now()
        store.add_staff_token(
            self._connection, uuid7(), staff_id, self._mac("staff", text), self._version, now, now + self._staff_token_life
        )  # fmt: skip
        return text

    def rotate_staff(self, name: str, overlap: timedelta = STAFF_OVERLAP_DEFAULT) -> str:
        """Make a new token for a staff member. Returns its text, which cannot be read again. Earlier tokens end after `overlap`; without
        an overlap they may be in other hands, so the sessions of the staff member end, too.

        Raises `StaffNotFound`, `Invalid`.
        """
        if not timedelta(0) <= overlap <= STAFF_OVERLAP_MAX:
            raise Invalid(f"an overlap is at most {STAFF_OVERLAP_MAX.days} days")
        with self._connection.transaction():
            staff_id = store.lock_staff(self._connection, name)
            if staff_id is None:
                raise StaffNotFound(f"there is no active staff member {name}: `tokenworks staff list`")
            now = self._clock.now()
            store.end_staff_tokens(self._connection, staff_id, now + overlap)
            if not overlap:
                staff_session_store.end_all(self._connection, staff_id, now)
            return self._new_token(staff_id)

    def staff(self) -> list[dict[str, object]]:
        """All staff by name, with the end of the newest token and the last use."""
        return store.all_staff(self._connection)

    def revoke_staff(self, name: str) -> None:
        """Revoke a staff member and its tokens. Raises `StaffNotFound`."""
        if not store.revoke_staff(self._connection, name, self._clock.now()):
            raise StaffNotFound(f"there is no active staff member {name}: `tokenworks staff list`")

    def staff_of(self, text: str, address: str | None = None) -> Principal | None:
        """The staff member with this token; None if there is none. Stores the time and address of this use.

        Raises `Unavailable` if the token is not found and this host lacks a pepper.
        """
        if not text.startswith("twf_") or len(text) > 100:
            return None
        now = self._clock.now()
        found = store.find_staff(self._connection, self._macs("staff", text), now)
        if found is None:
            check_no_pepper_missing(self._peppers)
            return None
        name, role, token_id, used_at, used_address = found
        moved = address is not None and address != used_address
        if used_at is None or now - used_at >= SEEN_EVERY or moved:
            store.store_staff_use(self._connection, token_id, now, address)
        return Principal(name, role, address=address)

    # The audit trail.

    def audit(
        self,
        actor: str,
        role: str,
        action: str,
        ref: str,
        before: object = None,
        after: object = None,
        *,
        address: str | None = None,
        person_id: UUID | None = None,
    ) -> None:
        """Add a row to the audit trail, in the transaction of the action. `ref`: the object of the action.

        `before` and `after` are encrypted under the key of the person whom they are about (`person_id`; None: no person in particular).
        So is the address of an actor who is no staff, since it is personal data. If the person is erased, neither is stored.
        """
        audit_id = uuid7()
        details = None
        key = self._vault.ensure(NO_PERSON) if person_id is None else self._vault.key(person_id)
        shown_address = address if role in STAFF_ROLES else None
        hidden_address = None if role in STAFF_ROLES else address
        if key is not None and (before is not None or after is not None or hidden_address is not None):
            details = key.seal("audit.details", audit_id, audit_details(before, after, hidden_address))
        store.add_audit(
            self._connection,
            audit_id,
            self._clock.now(),
            actor,
            role,
            action,
            ref,
            person_id or NO_PERSON,
            details,
            shown_address,
        )

    def audited(
        self, ref: str | None = None, offset: int = 0, limit: int = 100
    ) -> tuple[list[dict[str, object]], int]:
        """(a page of the audit trail, for one object or all, newest first; the count of all rows).

        The details of an erased person cannot be decrypted: such a row has `erased`.
        """
        rows, count = store.audits(self._connection, ref, offset, limit)
        keys = self._vault.keys(row["person_id"] or NO_PERSON for row in rows)
        return [self._opened(row, keys.get(row["person_id"] or NO_PERSON)) for row in rows], count

    @staticmethod
    def _opened(row: DictRow, key: PersonKey | None) -> dict[str, object]:
        sealed = row.pop("details")
        row.pop("person_id")
        details: dict[str, object] = {"before": None, "after": None}
        if key is not None and sealed is not None:
            details = json.loads(key.open("audit.details", row["audit_id"], sealed))
        elif sealed is not None:
            details = {"before": None, "after": None, "erased": True}
        return {**row, **details}


def audit_details(before: object, after: object, address: str | None = None) -> str:
    """The JSON text of the encrypted column of an audit row."""
    details = {"before": before, "after": after} | ({} if address is None else {"address": address})
    return json.dumps(details, default=str, ensure_ascii=False)
