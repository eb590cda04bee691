"""Sign-in with a number and a one-time code, or with a passkey: the challenge, the registration of new numbers, sessions as a member of another
account.
"""

from datetime import datetime
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Invalid, NotFound, TokenworksError, is_digits, uuid7
from tokenworks.subscriptions.errors import MemberNotFound, PhoneLost, SubscriberNotFound
from tokenworks.subscriptions.model import Member, Subscriber, parse_phone
from tokenworks.subscriptions.people.consents import Consents
from tokenworks.subscriptions.people.members import Members
from tokenworks.subscriptions.service import Subscriptions
from tokenworks.trust import CodeWrong, Identity, PasskeyAnswer, PasskeyCloned, Passkeys, PasskeyWrong


class CodeSender(Protocol):
    """The message port: sends a one-time code to a phone."""

    def __call__(self, phone: str, code: str) -> None:
        """Raises `Unavailable` if the code can't be sent."""
        ...


class OpenedSession(NamedTuple):
    """A new session. `text` is the secret that the client sends with each request."""

    text: str
    ends_at: datetime
    subscriber: Subscriber
    member: Member


def normal_number(identifier: str) -> str:
    """A number in its one spelling: with the country code that a Chinese mobile number may lack."""
    text = identifier.replace(" ", "").replace("-", "")
    if len(text) == 11 and text.startswith("1") and is_digits(text):
        text = f"+86{text}"
    return parse_phone(text) if text.startswith("+") else identifier


class SignIns:
    """Makes codes and opens sessions, on one connection."""

    def __init__(
        self,
        connection: Connection,
        subscriptions: Subscriptions,
        members: Members,
        consents: Consents,
        identity: Identity,
        passkeys: Passkeys,
    ) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self._members = members
        self._consents = consents
        self._identity = identity
        self._passkeys = passkeys

    def request_code(
        self, identifier: str, address: str, send: CodeSender
    ) -> tuple[str, tuple[str, str] | None]:
        """Make a code, and send it if the identifier is a phone number. Return the text of the challenge, and, for a broadband
        number that is known, the (phone, code) that the caller sends after its answer. So neither the answer nor its time shows
        whether the number has a subscriber. Raises `Unavailable` if the code can't be sent.
        """
        name = normal_number(identifier)
        challenge = self._identity.request_code(name, address)
        if challenge.code is None:
            return challenge.text, None
        if name.startswith("+"):
            try:
                send(name, challenge.code)
            except TokenworksError:
                self._identity.not_sent(challenge.text)
                raise
            return challenge.text, None
        try:
            return challenge.text, (self._subscriptions.find_by_number(name).phone, challenge.code)
        except (SubscriberNotFound, Invalid):
            return challenge.text, None

    def enter(
        self,
        identifier: str,
        code: str,
        challenge: str | None,
        address: str,
        client: str | None,
        language: Literal["zh", "en"] = "zh",
    ) -> OpenedSession:
        """Open a session with a code: as the owner of the number's own account, or, if the number has no account, as a member of
        another account. A number that has neither is registered. Raises `CodeWrong`, `PhoneLost`.
        """
        name = normal_number(identifier)
        self._identity.check_code(name, code, challenge, address)
        with self._connection.transaction():
            try:
                subscriber = self._subscriptions.find_by_number(name)
            except SubscriberNotFound:
                if not name.startswith("+"):
                    raise CodeWrong("the code is wrong, or too old: ask for a new one") from None
                elsewhere = [m for m in self._members.memberships(name) if m.state == "active"]
                if elsewhere:
                    return self._open(elsewhere[0], address, client)
                subscriber = self._subscriptions.register(name, language=language)
                self._consents.keep(subscriber, "terms", given=True)
            self._check_phone(subscriber)
            owner = self._members.by_id(self._subscriptions.owner_of(subscriber))
            assert owner is not None
            return self._open(owner, address, client)

    def enter_with_passkey(
        self, reached: str, answer: PasskeyAnswer, address: str, client: str | None
    ) -> OpenedSession:
        """Open a session with the answer of a passkey, as the member to whom it belongs. `reached`: the address of the page.

        Raises `PasskeyWrong`, `PasskeyCloned`, `PasskeysOff`, `PhoneLost`.
        """
        used = self._passkeys.use(reached, address, answer)
        member = self._members.by_id(used.member_id)
        if used.is_cloned:
            self._identity.audit(
                f"member:{used.member_id}", "member" if member is None else member.role, "passkey.cloned", str(used.passkey_id),
                address=address, person_id=used.subscriber_id,
            )  # fmt: skip
            raise PasskeyCloned(
                "the counter of this passkey went back, as that of a copy does: sign in with a code, and remove the passkey"
            )
        with self._connection.transaction():
            subscriber = self._subscriptions.find_exact(str(used.subscriber_id))
            if member is None or member.state != "active" or subscriber.state == "closed":
                raise PasskeyWrong("this passkey is not known here")
            if member.role == "owner":
                self._check_phone(subscriber)
            return self._open(member, address, client)

    @staticmethod
    def _check_phone(subscriber: Subscriber) -> None:
        if "lost_phone" in subscriber.suspended_by:
            raise PhoneLost(
                "this phone is reported lost: the operator lifts the suspension, after a check of your identity"
            )

    def switch(
        self, phone: str, member_id: UUID, address: str, client: str | None, session_id: UUID | None
    ) -> OpenedSession:
        """Open a session as an active member of another account. `session_id`: the session that asks; the new one is as fresh as that.
        Raises `NotFound`.
        """
        if session_id is None:
            raise NotFound("there is no such membership")
        for member in self._members.memberships(phone):
            if member.member_id == member_id and member.state == "active":
                with self._connection.transaction():
                    return self._open(member, address, client, session_id)
        raise NotFound("there is no such membership")

    def _open(
        self, member: Member, address: str, client: str | None, continues: UUID | None = None
    ) -> OpenedSession:
        if self._identity.is_new_place(member.subscriber_id, member.member_id, address):
            # Without the address, which is personal data: the page of sessions has it.
            person_id = member.subscriber_id if member.role == "owner" else member.member_id
            self._subscriptions.notify(
                member.subscriber_id, "sign_in", str(uuid7()), {"person_id": str(person_id)}
            )
        text, ends_at = self._identity.open_session(
            member.subscriber_id, member.member_id, address, client, continues
        )
        self._identity.audit(
            f"member:{member.member_id}", member.role, "sign_in", str(member.subscriber_id),
            address=address, person_id=member.subscriber_id,
        )  # fmt: skip
        return OpenedSession(text, ends_at, self._subscriptions.find(str(member.subscriber_id)), member)

    def phone_of(self, subscriber: Subscriber, member_id: UUID | None) -> str:
        """The number of a session: the member's own, or else the subscriber's."""
        member = None if member_id is None else self._members.by_id(member_id)
        return (member and member.phone) or subscriber.phone

    def is_invited(self, phone: str, member_id: UUID) -> bool:
        """True if an invitation is not accepted yet. This locks the account in the caller's transaction, so that a repeated
        answer has no second effect. Raises `MemberNotFound`.
        """
        member = self._members.by_id(member_id)
        if member is not None:
            self._subscriptions.lock([member.subscriber_id])
            for found in self._members.memberships(phone):
                if found.member_id == member_id:
                    return found.state == "invited"
        raise MemberNotFound("there is no such invitation")
