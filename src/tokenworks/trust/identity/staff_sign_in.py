"""Sign-in of staff on the console: by staff token and a code, or by an OpenID provider. Decision 66 says why.

A sign-in opens a session, writes a row of the audit trail, and never reuses a session that the browser had.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, Invalid, check_line
from tokenworks.trust.errors import (
    CodeWrong,
    OidcRefused,
    SecondFactorMissing,
    SignInRefused,
    StaffExists,
    StaffNotFound,
)
from tokenworks.trust.identity import staff_store as store
from tokenworks.trust.identity.oidc import OidcFlow, OidcPerson
from tokenworks.trust.identity.roles import STAFF_ROLES, StaffRole
from tokenworks.trust.identity.second_factor import SecondFactor
from tokenworks.trust.identity.service import Identity
from tokenworks.trust.identity.staff_sessions import Listener, SignInMethod, StaffSessions
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac

EMAIL_CHARS_MAX: Final = 254
# From leaving for the provider to coming back.
FLOW_LIFE: Final = timedelta(minutes=10)
STATES_KEPT: Final = timedelta(days=1)


class OidcRules(NamedTuple):
    """`roles`: group -> role, the first that a person has counts; empty: the role of the account counts, and no account is made.
    `creates`: a person with such a group, whom no account names, gets one.
    """

    roles: Mapping[str, StaffRole]
    creates: bool


class Origin(NamedTuple):
    """From where a sign-in comes. `client`: what the browser calls itself."""

    listener: Listener
    address: str
    client: str | None = None


class OpenedStaffSession(NamedTuple):
    """`text` cannot be read again."""

    text: str
    expires_at: datetime
    name: str


class StaffAccount(NamedTuple):
    """A staff member as administrators see it."""

    staff_id: UUID
    name: str
    role: StaffRole
    created_at: datetime
    revoked_at: datetime | None
    email: str | None
    is_linked: bool
    has_authenticator: bool
    recovery_codes_left: int


def checked_email(text: str) -> str:
    """An email in lower case. Raises `Invalid`."""
    email = check_line(text, "an email").lower()
    local, at, domain = email.rpartition("@")
    if (
        not at
        or not local
        or "." not in domain
        or len(email) > EMAIL_CHARS_MAX
        or " " in email
        or not email.isascii()
    ):
        raise Invalid("an email is name@domain, in ASCII")
    return email


class StaffSignIn:
    """Accounts of staff and their sign-ins, on one connection."""

    def __init__(
        self,
        connection: Connection,
        peppers: dict[int, bytes],
        clock: Clock,
        identity: Identity,
        sessions: StaffSessions,
        second_factor: SecondFactor,
        rules: OidcRules,
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._identity = identity
        self._sessions = sessions
        self._second_factor = second_factor
        self._rules = rules

    # Accounts.

    def _row(self, name: str) -> store.StaffRow:
        row = store.find(self._connection, name)
        if row is None or row.revoked_at is not None:
            raise StaffNotFound(f"there is no active staff member {name}: `tokenworks staff list`")
        return row

    def account(self, name: str) -> StaffAccount:
        """A staff member, revoked ones too. Raises `StaffNotFound`."""
        row = store.find(self._connection, name)
        if row is None:
            raise StaffNotFound(f"there is no staff member {name}: `tokenworks staff list`")
        left = self._second_factor.recovery_codes_left(row.staff_id)
        has_one = self._second_factor.is_enrolled(row.staff_id)
        return StaffAccount(*row[:6], row.oidc_subject is not None, has_one, left)

    def staff_id_of(self, name: str) -> UUID:
        """Raises `StaffNotFound`."""
        return self._row(name).staff_id

    def set_role(self, name: str, role: StaffRole) -> int:
        """Change the role of a staff member. Its sessions end; its tokens have the new role. Returns how many sessions ended.

        Raises `StaffNotFound`, `Invalid`.
        """
        if role not in STAFF_ROLES:
            raise Invalid(f"a role is one of {', '.join(sorted(STAFF_ROLES))}")
        with self._connection.transaction():
            row = self._row(name)
            store.lock(self._connection, row.staff_id)
            store.set_role(self._connection, row.staff_id, role)
            return self._sessions.end_all(row.staff_id)

    def set_email(self, name: str, email: str) -> int:
        """Let a staff member sign in by the OpenID provider with this email, in place of an earlier account there, whose sessions end.
        Returns how many. Raises `StaffNotFound`, `StaffExists`, `Invalid`.
        """
        email = checked_email(email)
        with self._connection.transaction():
            row = self._row(name)
            if not store.set_email(self._connection, row.staff_id, email):
                raise StaffExists(f"another staff member has the email {email}")
            return self._sessions.end_all(row.staff_id, method="oidc")

    def make_link(self, name: str) -> str:
        """Make the text of a one-time link for setting up an authenticator. Raises `StaffNotFound`."""
        return self._second_factor.make_link(self._row(name).staff_id)

    # By staff token.

    def by_token(self, token: str, code: str, origin: Origin, *, needs_code: bool) -> OpenedStaffSession:
        """Sign in by staff token. A code is needed from everyone who has an authenticator; `needs_code`: from everyone.

        Raises `SignInRefused`, whose text does not tell what is wrong; `SecondFactorMissing`, `TooManyAttempts`.
        """
        row = self._holder(token.strip(), origin)
        enrolled = self._second_factor.is_enrolled(row.staff_id)
        if needs_code and not enrolled:
            self._second_factor.check_attempts(row.staff_id, origin.address)
            self._refused(row, origin, "no authenticator")
            raise SecondFactorMissing(
                "sign-in here needs an authenticator: ask an administrator for a link (`tokenworks staff enrol`)"
            )
        method: SignInMethod | None = "token"
        with self._connection.transaction():
            active = store.lock(self._connection, row.staff_id)
            self._second_factor.check_attempts(row.staff_id, origin.address)
            if enrolled:
                method = self._second_factor.use(row.staff_id, code.strip())
            if not active:
                method = None
            if method is not None:
                return self._open(row, origin, method)
            self._refused(row, origin, "wrong code")
        raise self._wrong()

    def _holder(self, token: str, origin: Origin) -> store.StaffRow:
        """The staff member with this token. Counts a wrong token, and refuses more of them from one asker. The right token is not refused
        for the wrong ones: a stranger behind the same address would lock out its holder. Raises `SignInRefused`, `TooManyAttempts`.
        """
        holder = self._identity.staff_of(token, origin.address)
        row = None if holder is None else store.find(self._connection, holder.name)
        if row is None:
            raise self._counted(origin)
        return row

    def _counted(self, origin: Origin) -> SignInRefused:
        """Count a refused sign-in of no account. Raises `TooManyAttempts`."""
        self._second_factor.check_attempts(None, origin.address)
        self._second_factor.count_attempt(None, origin.address)
        return self._wrong()

    @staticmethod
    def _wrong() -> SignInRefused:
        return SignInRefused("the token or the code is wrong, or the code was used before")

    def _refused(self, row: store.StaffRow, origin: Origin, why: str) -> None:
        self._second_factor.count_attempt(row.staff_id, origin.address)
        self._audit(row, origin, "staff.sign_in_refused", {"why": why, "listener": origin.listener})

    def _open(self, row: store.StaffRow, origin: Origin, method: SignInMethod) -> OpenedStaffSession:
        text, ends = self._sessions.open(row.staff_id, origin.listener, method, origin.address, origin.client)
        self._audit(row, origin, "staff.sign_in", {"method": method, "listener": origin.listener})
        return OpenedStaffSession(text, ends, row.name)

    def _audit(
        self, row: store.StaffRow, origin: Origin, action: str, after: object, before: object = None
    ) -> None:
        self._identity.audit(row.name, row.role, action, row.name, before, after, address=origin.address)

    # Setting up an authenticator.

    def open_link(self, link: str, token: str, origin: Origin) -> tuple[str, str]:
        """(the secret, the key URI) for the authenticator of a link. The holder of the link also needs the staff token of its member, so
        that a link that went astray is worth nothing.

        Raises `EnrolmentLinkWrong`, `SignInRefused`, `TooManyAttempts`.
        """
        owner = self._second_factor.owner_of(link)
        row = self._holder(token.strip(), origin)
        if row.staff_id != owner:
            raise self._counted(origin)
        found = self._second_factor.enrolment(link, row.name)
        return found.secret, found.uri

    def confirm_link(self, link: str, token: str, code: str, origin: Origin) -> list[str]:
        """Put the authenticator of a link into force, by its first code. Returns the recovery codes, which cannot be read again. Ends the
        sessions of the staff member.

        Raises what `open_link` raises, and `CodeWrong`.
        """
        self.open_link(link, token, origin)
        owner = self._second_factor.owner_of(link)
        self._second_factor.check_attempts(owner, origin.address)
        row = self._holder(token.strip(), origin)
        try:
            with self._connection.transaction():
                store.lock(self._connection, owner)
                codes = self._second_factor.confirm(link, code.strip())
                self._sessions.end_all(owner)
                self._audit(row, origin, "staff.authenticator", {"recovery_codes": len(codes)})
        except CodeWrong:
            self._second_factor.count_attempt(owner, origin.address)
            raise
        return codes

    # By an OpenID provider.

    def begin_oidc(self) -> OidcFlow:
        """Begin a sign-in at the provider: what the browser keeps, and what is derived from it. Nothing is stored."""
        cookie = f"{int(self._clock.now().timestamp())}.{secrets.token_urlsafe(32)}"
        return self._flow(cookie, self._peppers[issuing(self._peppers)])

    def take_oidc(self, cookie: str, state: str, origin: Origin) -> OidcFlow:
        """The sign-in that a browser brings back from the provider. It is taken once. Raises `OidcRefused`, and `TooManyAttempts` if too
        many from there were refused: each one is a request to the provider, and a row.
        """
        refused = OidcRefused("this sign-in was begun elsewhere, is too old, or was used: begin again")
        begun, dot, _ = cookie.partition(".")
        if not dot or not begun.isascii() or not begun.isdigit() or len(cookie) > 100 or not state.isascii():
            raise refused
        now = self._clock.now()
        age_s = now.timestamp() - int(begun)
        if not -60 <= age_s <= FLOW_LIFE.total_seconds():
            raise refused
        flows = [self._flow(cookie, pepper) for pepper in self._peppers.values()]
        found = next((flow for flow in flows if hmac.compare_digest(flow.state, state)), None)
        if found is None:
            check_no_pepper_missing(self._peppers)
            raise refused
        self._second_factor.check_attempts(None, origin.address)
        # Without a pepper: hosts have different ones while peppers change. The cookie has 256 random bits.
        mac = hashlib.sha256(f"oidc_used:{cookie}".encode()).digest()
        if not store.use_state(self._connection, mac, now):
            raise refused
        return found

    def count_oidc(self, origin: Origin) -> None:
        """Count an answer that the provider, or its client, has refused."""
        self._second_factor.count_attempt(None, origin.address)

    @staticmethod
    def _flow(cookie: str, pepper: bytes) -> OidcFlow:
        def derived(kind: str) -> str:
            return base64.urlsafe_b64encode(key_mac(pepper, f"oidc_{kind}:{cookie}")).rstrip(b"=").decode()

        return OidcFlow(cookie, derived("state"), derived("nonce"), derived("verifier"))

    def by_oidc(self, person: OidcPerson, origin: Origin) -> OpenedStaffSession:
        """Sign in a person whom the provider has authenticated. Raises `OidcRefused`.

        An account is found by the provider's subject. An account that has none yet is found by its email, if the provider has verified
        the email, and gets the subject. If roles come from groups, the account gets the role of the person's groups with each sign-in; a
        person without such a group is refused, and its sessions end.
        """
        role = next((role for group, role in self._rules.roles.items() if group in person.groups), None)
        with self._connection.transaction():
            row = self._linked(person, role)
            active = row is not None and store.lock(self._connection, row.staff_id)
            allowed = active and (role is not None or not self._rules.roles)
            if row is not None and not allowed:
                ended = self._sessions.end_all(row.staff_id)
                why = "no group" if active else "revoked"
                self._audit(row, origin, "staff.sign_in_refused", {"why": why, "ended": ended})
            if row is not None and allowed:
                if role is not None and role != row.role:
                    store.set_role(self._connection, row.staff_id, role)
                    self._sessions.end_all(row.staff_id)
                    self._audit(row, origin, "staff.role", {"role": role}, {"role": row.role})
                    row = row._replace(role=role)
                return self._open(row, origin, "oidc")
            self.count_oidc(origin)
        raise OidcRefused("the provider knows you, and no staff account is yours: ask an administrator")

    def _linked(self, person: OidcPerson, role: StaffRole | None) -> store.StaffRow | None:
        """The account of a person, linked or made where a rule says so; None if there is none."""
        row = store.find_by_subject(self._connection, person.issuer, person.subject)
        if row is not None or not person.email_verified or person.email is None:
            return row
        try:
            email = checked_email(person.email)
        except Invalid:
            return None
        row = store.find_by_email(self._connection, email)
        if row is None and self._rules.creates and role is not None:
            row = self._made(email, role)
        if row is None or row.revoked_at is not None:
            return None
        # An account of another subject is never taken over by an email that went to another person.
        if not store.link(
            self._connection, row.staff_id, email, person.issuer, person.subject, self._clock.now()
        ):
            return None
        return row

    def _made(self, email: str, role: StaffRole) -> store.StaffRow | None:
        try:
            with self._connection.transaction():
                self._identity.add_staff_without_token(email, role)
                self.set_email(email, email)
        except (StaffExists, Invalid):
            return None
        row = store.find(self._connection, email)
        assert row is not None
        self._identity.audit("port:oidc", role, "staff.add", email, None, {"role": role, "by": "oidc"})
        return row

    def forget_old(self) -> None:
        """Delete states, sessions and refused sign-ins of long ago."""
        store.delete_states(self._connection, self._clock.now() - STATES_KEPT)
        self._sessions.forget_old()
        self._second_factor.forget_old()
