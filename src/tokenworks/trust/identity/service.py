"""Who asks: one-time codes, sessions, staff and their roles. Texts are never kept, only their MACs under the pepper."""

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from tokenworks.kernel import Clock, Invalid, check_line, shown, uuid7
from tokenworks.trust.errors import CodeWrong, StaffExists, StaffNotFound, TooManyCodes
from tokenworks.trust.identity import store
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac
from tokenworks.trust.vault.service import NO_PERSON, PersonKey, PersonVault
from tokenworks.trust.vault.skeleton import skeleton

CODE_DIGITS: Final = 6
CODE_LIFE: Final = timedelta(minutes=5)
CODE_ATTEMPTS_MAX: Final = 5
# A number for which so many codes were asked for within a day, by whomever, is under attack: its codes are longer and live
# longer, so that guesses are worth nothing, its owner is never locked out, and its phone does not ring all day.
CODES_OF_ATTACK: Final = 20
CODE_DIGITS_OF_ATTACK: Final = 10
CODE_LIFE_OF_ATTACK: Final = timedelta(hours=1)
# Who asks within this of the last code that was sent to a number is answered by that one.
SEND_EVERY: Final = timedelta(minutes=1)
# (how many, in which time): codes of one asker for one number, and of one asker for all numbers. Behind one IPv4 address may
# be the thousands of customers of a carrier's NAT (RFC 6598), so that so many askings for one number from there don't shut its
# owner out: they are an attack on it. A /64 of IPv6 is one line, or one phone (RFC 6177, TS 23.401).
CODES_PER_NUMBER: Final = ((1, timedelta(minutes=1)), (5, timedelta(hours=1)), (10, timedelta(days=1)))
CODES_PER_IPV4: Final = ((1000, timedelta(hours=1)), (10_000, timedelta(days=1)))
CODES_PER_IPV6: Final = ((30, timedelta(hours=1)), (200, timedelta(days=1)))
SESSION_LIFE: Final = timedelta(days=7)
# When a session was used last is written down at most this often.
SEEN_EVERY: Final = timedelta(minutes=10)
SESSIONS_LISTED_MAX: Final = 1000
CLIENT_CHARS_MAX: Final = 200
ASKER_CHARS_MAX: Final = 64
STAFF_TOKEN_LIFE: Final = timedelta(days=90)
STAFF_OVERLAP_DEFAULT: Final = timedelta(days=1)
STAFF_OVERLAP_MAX: Final = timedelta(days=30)
# What the audit trail calls those who are no staff.
RESERVED_NAMES: Final = ("cli:", "port:", "member:")
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
    # Where they ask from, as the gateway vetted it.
    address: str | None = None

    @property
    def is_staff(self) -> bool:
        return self.role in STAFF_ROLES

    @property
    def actor(self) -> str:
        """How what this one does is signed where it is kept: staff by name, a member by id, since its name is personal."""
        return self.name if self.is_staff else f"member:{self.member_id}"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in: since when, from where, with what, and when they were seen last."""

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
    """What the asker of a code gets: `text` goes with the code. `code` is what is to be sent, None where the phone has got a
    code a moment ago, which is good for this challenge as well.
    """

    text: str
    code: str | None


def asker_of(address: str) -> str:
    """Who asks, as limits count them: an IPv4 address, or the /64 network of an IPv6 one. What is no address is itself."""
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
    """On one connection. `peppers` by version; what is new is made under the one that is used."""

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
        """Under every pepper: what was made under an earlier one stays good."""
        return [key_mac(pepper, f"{kind}:{text}") for pepper in self._peppers.values()]

    # One-time codes.

    def request_code(self, identifier: str, address: str) -> Challenge:
        """A challenge for a phone or broadband number, and the code that goes with it, asked for from an address.

        An asker's own asking is limited, for a number and in all; what others ask for the same number is not counted there, so
        that nobody can lock a number out. From an IPv4 address, which many may share, a number is asked for without a limit, and
        is under attack beyond it. Whether anybody has the number plays no part. Raises `TooManyCodes`.
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
                        # Twice within a minute is no attack: the second one shares the code.
                        crowded = crowded or count > 1
                    elif oldest is not None:
                        wait_s = max(1, int((oldest + span - now).total_seconds()) + 1)
                        raise TooManyCodes(f"a code was sent already: try again in {wait_s} s", wait_s)
            asked = store.count_codes(self._connection, macs, now - timedelta(days=1))
            attacked = crowded or asked >= CODES_OF_ATTACK
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
        """The code of a challenge could not be sent: nobody shares it, and the next who asks has one of their own."""
        store.not_sent(self._connection, self._macs("challenge", challenge), self._clock.now())

    def check_code(
        self, identifier: str, code: str, challenge: str | None = None, address: str = "local"
    ) -> None:
        """Use a code up, with the challenge that it goes with; without one of that number, the newest that the same asker has.

        Each way has five attempts, which nobody else can use up. Raises `CodeWrong`, which does not say what is wrong.
        """
        now, macs = self._clock.now(), self._macs("identifier", identifier)
        challenges = [] if challenge is None else self._macs("challenge", challenge)
        wrong = CodeWrong("the code is wrong, or too old: ask for a new one")
        with self._connection.transaction():
            # Challenges that share a code are tried one after the other: it is good once.
            store.lock_codes(self._connection, min(macs))
            held = store.is_challenge_of(self._connection, macs, challenges)
            if held:
                found = store.lock_challenge(self._connection, challenges, now)
            else:
                found = store.lock_newest_code(self._connection, macs, asker_of(address), now)
            right = False
            if found is not None:
                attempts = found.attempts if held else found.asker_attempts
                right = attempts < CODE_ATTEMPTS_MAX and any(
                    hmac.compare_digest(found.code_mac, mac)
                    for mac in self._macs("code", f"{identifier}:{code}")
                )
                store.attempted(self._connection, found.code_id, "attempts" if held else "asker_attempts")
            if right and found is not None:
                # Whatever challenges share the code: it is good once.
                store.used(self._connection, macs, found.code_mac, now)
        if not right:
            raise wrong

    # Sessions.

    def open_session(
        self, subscriber_id: UUID, member_id: UUID, address: str | None = None, client: str | None = None
    ) -> tuple[str, datetime]:
        """(the session's text, which is shown this once; when it ends). `client` is what the browser calls itself."""
        text = f"tws_{secrets.token_urlsafe(32)}"
        ends = self._clock.now() + SESSION_LIFE
        client = None if client is None else shown(client[:CLIENT_CHARS_MAX])[:CLIENT_CHARS_MAX]
        store.add_session(
            self._connection, uuid7(), self._mac("session", text), subscriber_id, member_id, self._clock.now(), ends, address,
            client, self._version,
        )  # fmt: skip
        return text, ends

    def session(self, text: str, address: str | None = None) -> tuple[UUID, UUID, UUID] | None:
        """(session, subscriber, member) of a live session. That it was used, and from where, is kept. Raises `Unavailable` where
        this host may not know it.
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
            store.seen(self._connection, session_id, now, address)
        return session_id, subscriber_id, member_id

    def sessions(self, subscriber_id: UUID, member_id: UUID | None = None) -> list[Session]:
        """Live sessions of a subscriber, or of one of its members alone, newest first."""
        rows = store.sessions(
            self._connection, subscriber_id, member_id, self._clock.now(), SESSIONS_LISTED_MAX
        )
        return [Session(*row) for row in rows]

    def end_other_sessions(
        self, subscriber_id: UUID, member_id: UUID | None, keep: UUID | None = None
    ) -> int:
        """End all live sessions of a member (None: of all members), but for one. Returns how many."""
        return store.end_sessions(self._connection, subscriber_id, self._clock.now(), member_id, keep)

    def end_session(self, session_id: UUID) -> bool:
        """False where it has ended already."""
        return store.end_session(self._connection, session_id, self._clock.now())

    def has_session(self, subscriber_id: UUID, session_id: UUID) -> bool:
        """True for one of a subscriber's, also where it has ended."""
        return store.has_session(self._connection, subscriber_id, session_id)

    def end_sessions(self, subscriber_id: UUID) -> None:
        """Of a subscriber who is closed, or whose number has changed."""
        store.end_sessions(self._connection, subscriber_id, self._clock.now())

    def end_sessions_of(self, member_ids: Sequence[UUID]) -> None:
        """Of members, in whosever accounts they are."""
        store.end_sessions_of(self._connection, list(member_ids), self._clock.now())

    def codes_of(self, identifier: str) -> list[dict[str, object]]:
        """When and from where codes were asked for with a number, as long as that is kept."""
        return store.codes_of(self._connection, self._macs("identifier", identifier))

    def forget_places(self, subscriber_id: UUID, member_ids: Sequence[UUID] = ()) -> None:
        """From where, and with what, the members of one who is erased were signed in, and it as a member elsewhere."""
        store.forget_places(self._connection, subscriber_id, list(member_ids))

    def forget_places_of_member(self, member_id: UUID) -> None:
        """From where, and with what, one member who is erased was signed in."""
        store.forget_places_of_member(self._connection, member_id)

    def forget_identifier(self, identifier: str) -> None:
        """The codes of a number whose person is erased."""
        store.delete_codes(self._connection, self._macs("identifier", identifier))

    def forget_old(self) -> None:
        """Codes that are long past, and sessions that ended long ago."""
        now = self._clock.now()
        store.delete_old(self._connection, now - CODES_KEPT, now - SESSIONS_KEPT)

    # Staff.

    def add_staff(self, name: str, role: StaffRole) -> str:
        """A member of the staff; its token's text, which is shown this once, and ends by itself.

        A name that looks like another one's is refused, also one that is revoked: the audit trail names both. Raises
        `StaffExists`, `Invalid`.
        """
        name = check_line(name, "a name")
        if role not in STAFF_ROLES:
            raise Invalid(f"a role is one of {', '.join(sorted(STAFF_ROLES))}")
        looks = skeleton(name)
        if not looks or name.lower().startswith(RESERVED_NAMES):
            raise Invalid(
                "a name has letters or digits, and does not begin as those of commands and ports do"
            )
        staff_id = uuid7()
        with self._connection.transaction():
            if not store.add_staff(self._connection, staff_id, name, looks, role, self._clock.now()):
                other = store.staff_of_skeleton(self._connection, looks)
                like = "" if other in {None, name} else f", which looks like {name}"
                raise StaffExists(f"there is a {other or name} already{like}")
            return self._new_token(staff_id)

    def _new_token(self, staff_id: UUID) -> str:
        text, now = f"twf_{secrets.token_urlsafe(32)}", self._clock.now()
        store.add_staff_token(
            self._connection, uuid7(), staff_id, self._mac("staff", text), self._version, now, now + self._staff_token_life
        )  # fmt: skip
        return text

    def rotate_staff(self, name: str, overlap: timedelta = STAFF_OVERLAP_DEFAULT) -> str:
        """A new token, whose text is shown this once; earlier ones end when the overlap has passed.

        Raises `StaffNotFound`, `Invalid`.
        """
        if not timedelta(0) <= overlap <= STAFF_OVERLAP_MAX:
            raise Invalid(f"an overlap is at most {STAFF_OVERLAP_MAX.days} days")
        with self._connection.transaction():
            staff_id = store.lock_staff(self._connection, name)
            if staff_id is None:
                raise StaffNotFound(f"there is no {name} who could have a token: `tokenworks staff list`")
            store.end_staff_tokens(self._connection, staff_id, self._clock.now() + overlap)
            return self._new_token(staff_id)

    def staff(self) -> list[dict[str, object]]:
        """By name, with the end of their newest token and when they were seen last."""
        return store.all_staff(self._connection)

    def revoke_staff(self, name: str) -> None:
        """Raises `StaffNotFound`."""
        if not store.revoke_staff(self._connection, name, self._clock.now()):
            raise StaffNotFound(f"there is no {name} who could be revoked: `tokenworks staff list`")

    def staff_of(self, text: str, address: str | None = None) -> Principal | None:
        """Whose token this is. That it was used, and from where, is kept. Raises `Unavailable` where this host may not know it."""
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
            store.staff_seen(self._connection, token_id, now, address)
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
        """Write down who did what to what, and from where, in the transaction of what was done. How it was before and after is
        encrypted under the key of the person that it is about; None: nobody in particular. So is where somebody asked from who
        is no staff: it is personal. Of one who was erased neither is kept.
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
        """A page of the audit trail, of one ref or all, newest first, and how many there are. What was written of one who was
        erased can't be read any more: `erased` says so.
        """
        rows, count = store.audits(self._connection, ref, offset, limit)
        keys = self._vault.keys(row["person_id"] or NO_PERSON for row in rows)
        return [self._opened(row, keys.get(row["person_id"] or NO_PERSON)) for row in rows], count

    @staticmethod
    def _opened(row: DictRow, key: PersonKey | None) -> dict[str, object]:
        details = row.pop("details")
        row.pop("person_id")
        said: dict[str, object] = {"before": None, "after": None}
        if key is not None and details is not None:
            said = json.loads(key.open("audit.details", row["audit_id"], details))
        elif details is not None:
            said = {"before": None, "after": None, "erased": True}
        return {**row, **said}


def audit_details(before: object, after: object, address: str | None = None) -> str:
    """What is encrypted of a row of the audit trail."""
    said = {"before": before, "after": after} | ({} if address is None else {"address": address})
    return json.dumps(said, default=str, ensure_ascii=False)
