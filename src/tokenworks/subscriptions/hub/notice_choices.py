"""What a person chose for notices: kinds by channel, an e-mail address that the person confirms, a webhook with its secret.

No token and no secret is stored: each is derived from a pepper, the address's id and its generation. A token is void once its address
is replaced, and once the pepper that was in use when it was made is retired. A pepper that makes the secret of a webhook is not retired.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.kernel import Clock, Conflict, Invalid, NotFound, Refused, uuid7
from tokenworks.subscriptions.hub import notice_address_store as store
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.hub.callback import check_callback
from tokenworks.subscriptions.hub.notice_kinds import CONFIRM, KINDS, Channel, NoticeKind
from tokenworks.subscriptions.hub.service import signing_generations
from tokenworks.subscriptions.model import Member
from tokenworks.trust import PersonVault, issuing

EMAIL_CHARS_MAX: Final = 254
# ASCII only: an address that needs SMTPUTF8 (RFC 6531) is refused, since not every server on the way takes it.
_EMAIL: Final = re.compile(
    r"(?=.{1,254}\Z)(?=[^@]{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
CONFIRM_LIFE: Final = timedelta(days=1)
# Requests to confirm an address in a day: for one address over all accounts, and of one account.
ADDRESS_REQUESTS_MAX: Final = 5
ACCOUNT_REQUESTS_MAX: Final = 20
REQUESTS_KEPT: Final = timedelta(days=2)
OVERLAP_DEFAULT: Final = timedelta(days=1)
OVERLAP_MAX: Final = timedelta(days=30)
_PLACE: Final = "notice_address.address"
_MAC_CHARS: Final = 43
_TOKEN: Final = re.compile(
    rf"([0-9]{{1,3}})\.([0-9a-f]{{32}})\.([a-z_.]{{0,40}})\.([A-Za-z0-9_-]{{{_MAC_CHARS}}})"
)


class NoticeRequired(Refused):
    """The kind can't be switched off on this channel."""


class TooManyRequests(Refused):
    """Too many mails to confirm an address were asked for today."""


class LinkInvalid(NotFound):
    """The link is wrong, too old, or of an address that was replaced."""


class AddressNotFound(NotFound):
    """The person gave no such address."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who gets notices. `person_id`: the subscriber's id for the owner of the account, else the member's."""

    person_id: UUID
    subscriber_id: UUID


@dataclass(frozen=True, slots=True)
class NoticeChoice:
    """Whether a person gets a kind by a channel. `required`: it can't be switched off."""

    kind: str
    channel: Channel
    wanted: bool
    required: bool


@dataclass(frozen=True, slots=True)
class NoticeAddress:
    """An e-mail address, or the URL of a webhook. Until `overlap_until`, the former secret signs, too."""

    address_id: UUID
    person_id: UUID
    subscriber_id: UUID
    channel: Channel
    address: str
    generation: int
    pepper_version: int
    made_at: datetime
    confirmed_at: datetime | None
    overlap_until: datetime | None
    overlap_version: int | None


def person_of(member: Member) -> Person:
    """The person that a member is."""
    person_id = member.subscriber_id if member.role == "owner" else member.member_id
    return Person(person_id, member.subscriber_id)


def check_email(text: str) -> str:
    """An e-mail address, its domain in small letters. Raises `Invalid`."""
    # Mail programs read `=?` as the beginning of an encoded word (RFC 2047): the address that they take would be another one.
    if not _EMAIL.fullmatch(text) or "=?" in text:
        raise Invalid(
            f"email: an address such as li@example.com, in ASCII, of at most {EMAIL_CHARS_MAX} characters"
        )
    local, _, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}"


def _mailbox(email: str) -> str:
    """An address without its tag: what is sent to `li+tag@example.com` comes to `li@example.com` at many providers."""
    local, _, domain = email.rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


class NoticeChoices:
    """Choices and addresses, on one connection. `peppers` by version. `allow_private`: a person's webhook may be at a private address;
    this is for tests, since a person could else reach what is inside of the operator's network.
    """

    def __init__(
        self,
        connection: Connection,
        peppers: Mapping[int, bytes],
        clock: Clock,
        vault: PersonVault,
        *,
        has_mail: bool,
        allow_private: bool,
        need_tls: bool,
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._vault = vault
        self._has_mail = has_mail
        self._allow_private = allow_private
        self._need_tls = need_tls

    # Choices.

    def of(self, person: Person) -> list[NoticeChoice]:
        """Every kind and channel that can be chosen, in the order of the table of kinds."""
        chosen = store.choices(self._connection, [person.person_id])
        return [
            NoticeChoice(
                kind.name,
                channel,
                kind.wants(channel, chosen.get((person.person_id, kind.name, channel))),
                channel in kind.required,
            )
            for kind in KINDS.values()
            if kind.name != CONFIRM and kind.to != "invited"
            for channel in kind.channels
        ]

    def choose(self, person: Person, wanted: Mapping[tuple[str, str], bool]) -> None:
        """Switch kinds on or off, all or none of them. `wanted`: by (kind, channel). Raises `Invalid`, `NoticeRequired`."""
        known: dict[tuple[str, str], NoticeChoice] = {(one.kind, one.channel): one for one in self.of(person)}
        for place, on in wanted.items():
            found = known.get(place)
            if found is None:
                raise Invalid(f"there is no notice {place[0][:50]} by {place[1][:20]}")
            if found.required and not on:
                raise NoticeRequired(f"{found.kind} by {found.channel} can't be switched off")
        now = self._clock.now()
        with self._connection.transaction():
            for (kind, channel), on in sorted(wanted.items()):
                store.choose(self._connection, person.person_id, person.subscriber_id, kind, channel, on, now)

    def chosen(self, person_ids: Sequence[UUID]) -> dict[tuple[UUID, str, str], bool]:
        """(person, kind, channel) -> what the person chose."""
        return store.choices(self._connection, person_ids) if person_ids else {}

    def channels(self, person_ids: Sequence[UUID]) -> dict[UUID, set[str]]:
        """The channels for which a person gave an address that may be used."""
        found: dict[UUID, set[str]] = {}
        for row in store.addresses(self._connection, person_ids) if person_ids else ():
            if row[8] is not None:
                found.setdefault(row[1], set()).add(row[3])
        return found

    # Addresses.

    def address(self, person_id: UUID, channel: Channel) -> NoticeAddress | None:
        """A person's address of a channel; None if it gave none, or is erased."""
        row = next((row for row in store.addresses(self._connection, [person_id]) if row[3] == channel), None)
        return None if row is None else self._decrypted(row)

    def _decrypted(self, row: TupleRow) -> NoticeAddress | None:
        text = self._vault.open(row[1], _PLACE, row[0], bytes(row[4]))
        return (
            None
            if text is None
            else NoticeAddress(
                row[0], row[1], row[2], row[3], text, row[5], row[6], row[7], row[8], row[9], row[10]
            )
        )

    def ask_email(self, person: Person, email: str) -> NoticeAddress:
        """Give an e-mail address in the place of the former one, and send it a link. Nothing else is sent to it before the link is
        used. Raises `Invalid`, `TooManyRequests`.
        """
        email = check_email(email)
        if not self._has_mail:
            raise Refused(
                "mails can't be sent here: the operator has to set smtp_host, smtp_from and public_url"
            )
        now = self._clock.now()
        address_hash = self._vault.lookup.email(_mailbox(email))
        with self._connection.transaction():
            # The account always first: requests that wait for each other can't wait in a circle.
            store.lock_requests(self._connection, person.subscriber_id.bytes[8:])
            store.lock_requests(self._connection, address_hash)
            of_address, of_account = store.requests(
                self._connection, person.subscriber_id, address_hash, now - timedelta(days=1)
            )
            if of_address >= ADDRESS_REQUESTS_MAX or of_account >= ACCOUNT_REQUESTS_MAX:
                raise TooManyRequests("too many mails were asked for today: try again tomorrow")
            store.add_request(
                self._connection, uuid7(), person.subscriber_id, person.person_id, address_hash, now
            )
            address_id = self._add(person, "email", email, confirmed=False)
            notice_store.add_notification(
                self._connection, person.subscriber_id, CONFIRM, str(address_id),
                {"person_id": str(person.person_id), "address_id": str(address_id)}, now,
            )  # fmt: skip
        found = self.address(person.person_id, "email")
        assert found is not None
        return found

    def set_webhook(self, person: Person, url: str) -> tuple[NoticeAddress, str]:
        """Give a webhook in the place of the former one: (the address, its secret, which can't be shown again). Raises `Invalid`."""
        check_callback(url, allow_private=self._allow_private, need_tls=self._need_tls)
        with self._connection.transaction():
            self._add(person, "webhook", url, confirmed=True)
        found = self.address(person.person_id, "webhook")
        assert found is not None
        return found, _shown_secret(self._key(found.address_id, 1, found.pepper_version))

    def _add(self, person: Person, channel: Channel, text: str, *, confirmed: bool) -> UUID:
        key = self._vault.key(person.person_id)
        if key is None:
            raise Conflict("the person is erased")
        address_id, now = uuid7(), self._clock.now()
        store.add_address(
            self._connection, address_id, person.person_id, person.subscriber_id, channel,
            key.seal(_PLACE, address_id, text), issuing(self._peppers), now, now if confirmed else None,
        )  # fmt: skip
        self._tell_changed(person, channel, address_id)
        return address_id

    def remove(self, person: Person, channel: Channel) -> None:
        """Remove an address. Raises `AddressNotFound`."""
        with self._connection.transaction():
            if not store.delete_address(self._connection, person.person_id, channel):
                raise AddressNotFound(f"there is no {channel} address")
            self._tell_changed(person, channel, uuid7())

    def _tell_changed(self, person: Person, channel: Channel, ref: UUID) -> None:
        """Tell the person by console and text message: an intruder could else have the notices sent elsewhere, unnoticed."""
        notice_store.add_notification(
            self._connection, person.subscriber_id, "address.changed", str(ref),
            {"person_id": str(person.person_id), "channel": channel}, self._clock.now(),
        )  # fmt: skip

    def rotate(self, person: Person, overlap: timedelta = OVERLAP_DEFAULT) -> str:
        """Make a new secret for the webhook and return it; it can't be shown again. During the overlap the former one signs, too.

        Raises `AddressNotFound`, `Invalid`, and `Conflict` while an earlier overlap lasts.
        """
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise Invalid(f"an overlap is at most {OVERLAP_MAX.days} days")
        with self._connection.transaction():
            found = self.address(person.person_id, "webhook")
            if found is None or store.lock_address(self._connection, found.address_id) is None:
                raise AddressNotFound("there is no webhook")
            found = self.address(person.person_id, "webhook")
            assert found is not None
            now = self._clock.now()
            if found.overlap_until is not None and now < found.overlap_until:
                raise Conflict(
                    f"the secret was rotated before, and the former one signs until {found.overlap_until:%Y-%m-%d %H:%M} UTC"
                )
            version = issuing(self._peppers)
            store.rotate(self._connection, found.address_id, version, found.pepper_version, now + overlap)
        return _shown_secret(self._key(found.address_id, found.generation + 1, version))

    def signing_secrets(self, address: NoticeAddress) -> list[bytes]:
        """The secrets that sign now: the webhook's, and during an overlap the former one."""
        return [
            self._key(address.address_id, generation, version)
            for generation, version in signing_generations(address, self._peppers, self._clock.now())
        ]

    def _key(self, address_id: UUID, generation: int, version: int) -> bytes:
        return self._mac(version, f"notice-webhook:{address_id}:{generation}")

    def _mac(self, version: int, text: str) -> bytes:
        pepper = self._peppers.get(version)
        if pepper is None:
            raise LinkInvalid("the link is void: ask for a new one")
        return hmac.new(pepper, text.encode(), hashlib.sha256).digest()

    # Links.

    def confirmation(self, address: NoticeAddress) -> str:
        """The token of the link that confirms an address."""
        return self._token("confirm", address, "")

    def unsubscription(self, address: NoticeAddress, kind: NoticeKind) -> str | None:
        """The token of the link that ends a kind by e-mail; None if it can't be switched off."""
        return None if "email" in kind.required else self._token("unsubscribe", address, kind.name)

    def _token(self, purpose: str, address: NoticeAddress, kind: str) -> str:
        return self._token_under(issuing(self._peppers), purpose, address, kind)

    def _token_under(self, version: int, purpose: str, address: NoticeAddress, kind: str) -> str:
        id_ = address.address_id.hex
        mac = self._mac(version, f"notice-{purpose}:{id_}:{kind}")
        return f"{version}.{id_}.{kind}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    def _opened(self, purpose: str, token: str) -> tuple[NoticeAddress, str]:
        """(the address of a token, locked in the caller's transaction; the kind that it names). Raises `LinkInvalid`."""
        invalid = LinkInvalid("the link is wrong, or the address was replaced: ask for a new one")
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise invalid
        row = store.lock_address(self._connection, UUID(match[2]))
        found = None if row is None else self._decrypted(row)
        if found is None or not hmac.compare_digest(
            self._token_under(int(match[1]), purpose, found, match[3]), token
        ):
            raise invalid
        return found, match[3]

    def confirm(self, token: str) -> Person:
        """Confirm the address of a link. A second use of the link changes nothing. Raises `LinkInvalid`."""
        with self._connection.transaction():
            found, _ = self._opened("confirm", token)
            now = self._clock.now()
            if found.confirmed_at is None and now - found.made_at >= CONFIRM_LIFE:
                raise LinkInvalid("the link is too old: ask for a new one")
            store.confirm(self._connection, found.address_id, now)
        return Person(found.person_id, found.subscriber_id)

    def unsubscribe(self, token: str) -> tuple[Person, str]:
        """Switch off by e-mail the kind that a link names: (the person, the kind). Raises `LinkInvalid`."""
        with self._connection.transaction():
            found, name = self._opened("unsubscribe", token)
            person = Person(found.person_id, found.subscriber_id)
            if name not in KINDS:
                raise LinkInvalid("there is no such kind of notice any more")
            self.choose(person, {(name, "email"): False})
        return person, name

    # Retention and erasure.

    def forget_old(self) -> None:
        """Delete requests that no limit counts any more."""
        store.delete_requests(self._connection, self._clock.now() - REQUESTS_KEPT)

    def forget(self, subscriber_id: UUID | None, person_id: UUID | None) -> None:
        """Delete what an erased subscriber with its members, or one erased member, chose and gave."""
        store.forget(self._connection, subscriber_id, person_id)

    def export(self, person_id: UUID) -> dict[str, object]:
        """A person's choices and addresses, for its export."""
        channels: Collection[Channel] = ("email", "webhook")
        found = [self.address(person_id, channel) for channel in channels]
        chosen = store.choices(self._connection, [person_id])
        return {
            "notice_choices": [
                {"kind": kind, "channel": channel, "wanted": wanted}
                for (_, kind, channel), wanted in sorted(chosen.items(), key=lambda item: item[0][1:])
            ],
            "notice_addresses": [
                {"channel": address.channel, "address": address.address, "confirmed_at": address.confirmed_at}
                for address in found
                if address is not None
            ],
        }


def _shown_secret(key: bytes) -> str:
    """A secret as Standard Webhooks writes it."""
    return f"whsec_{base64.b64encode(key).decode()}"
