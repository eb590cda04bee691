"""Passkeys (W3C Web Authentication Level 3) of members: they are added, named, removed and used to sign in, beside one-time codes.

A challenge is not stored when it is made, so that requests without a sign-in write nothing: it has its purpose, its owner (the session,
or the address that asks) and its end under a MAC. An answer that is right uses it up.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, check_line, uuid7
from tokenworks.trust.errors import (
    PasskeyNotFound,
    PasskeysOff,
    PasskeyWrong,
    SignInTooOld,
    TooManyPasskeys,
)
from tokenworks.trust.identity import passkey_store as store
from tokenworks.trust.identity import store as session_store
from tokenworks.trust.identity.passkey_site import PasskeySite, PasskeySites
from tokenworks.trust.identity.service import asker_of
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac
from tokenworks.trust.vault.service import PersonVault

PASSKEYS_MAX: Final = 20
CHALLENGE_LIFE: Final = timedelta(minutes=5)
# A session adds or removes passkeys for this long after its person gave a code or used a passkey.
FRESH: Final = timedelta(minutes=10)
NAME_CHARS_MAX: Final = 60
# Of what a browser sends: with these bounds an answer costs at most some ms.
CLIENT_DATA_BYTES_MAX: Final = 4096
ATTESTATION_BYTES_MAX: Final = 16_384
AUTHENTICATOR_DATA_BYTES_MAX: Final = 4096
SIGNATURE_BYTES_MAX: Final = 1024
USER_HANDLE_BYTES_MAX: Final = 64
# The names of the standard (section 5.8.4); others are not stored.
TRANSPORTS: Final[tuple[str, ...]] = ("ble", "hybrid", "internal", "nfc", "smart-card", "usb")
_NONCE_BYTES: Final = 16
_END_BYTES: Final = 8
_MAC_BYTES: Final = 32
# -7: ES256, -8: EdDSA, -257: RS256 (IANA, COSE Algorithms), as `authenticator.ALGORITHMS`.
_ALGORITHM_IDS: Final = (-7, -8, -257)
_PLACE: Final = "passkey.name"

Purpose = Literal["add", "sign_in"]


@dataclass(frozen=True, slots=True)
class Passkey:
    """A passkey as its person sees it. `is_synced`: a copy may be on other devices. `cloned_at`: since then it is blocked."""

    passkey_id: UUID
    name: str
    created_at: datetime
    used_at: datetime | None
    is_synced: bool
    cloned_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewPasskey:
    """What an authenticator made: the answer to `navigator.credentials.create`."""

    client_data: bytes
    attestation: bytes
    transports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PasskeyAnswer:
    """What an authenticator signed: the answer to `navigator.credentials.get`."""

    credential_id: bytes
    client_data: bytes
    authenticator_data: bytes
    signature: bytes
    user_handle: bytes


class PasskeyUse(NamedTuple):
    """Whom a right answer names. `is_cloned`: the counter went back, so the answer must not sign in."""

    passkey_id: UUID
    subscriber_id: UUID
    member_id: UUID
    is_cloned: bool


def encode(content: bytes) -> str:
    """Base64url without padding, as the standard writes bytes in JSON."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str, bytes_max: int) -> bytes:
    """Raises `PasskeyWrong` if the text is no base64url, or is longer than `bytes_max` bytes."""
    if len(text) > (bytes_max + 2) // 3 * 4:
        raise PasskeyWrong(f"the passkey's answer has a part of more than {bytes_max} bytes")
    try:
        content = urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except (NotBase64, ValueError) as error:
        raise PasskeyWrong("the passkey's answer is no base64url") from error
    return content


class Passkeys:
    """The passkeys of members, on one connection. `peppers` by version; the issuing one makes new challenges."""

    def __init__(
        self,
        connection: Connection,
        peppers: dict[int, bytes],
        clock: Clock,
        vault: PersonVault,
        sites: PasskeySites,
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._vault = vault
        self._sites = sites

    def is_offered(self, reached: str) -> bool:
        """True if a page at this address (`https://shop.example`) may use passkeys."""
        return self._sites.of(reached) is not None

    def _site(self, reached: str) -> PasskeySite:
        found = self._sites.of(reached)
        if found is None:
            raise PasskeysOff("passkeys are not set up for this address: sign in with a code")
        return found

    # Challenges.

    def _challenge(self, purpose: Purpose, owner: str) -> bytes:
        ends = int((self._clock.now() + CHALLENGE_LIFE).timestamp())
        head = secrets.token_bytes(_NONCE_BYTES) + ends.to_bytes(_END_BYTES, "big")
        return head + self._mac(self._peppers[issuing(self._peppers)], purpose, owner, head)

    @staticmethod
    def _mac(pepper: bytes, purpose: Purpose, owner: str, head: bytes) -> bytes:
        return key_mac(pepper, f"passkey:{purpose}:{head.hex()}:{owner}")

    def _opened(self, text: str, purpose: Purpose, owner: str) -> tuple[bytes, bytes, datetime]:
        """(challenge, its MAC, its end) of a challenge that was made here, for this purpose and owner. Raises `PasskeyWrong`, and
        `Unavailable` if this host lacks a pepper, with which another host may have made it.
        """
        challenge = decode(text, _NONCE_BYTES + _END_BYTES + _MAC_BYTES)
        head, mac = challenge[:-_MAC_BYTES], challenge[-_MAC_BYTES:]
        if len(head) != _NONCE_BYTES + _END_BYTES or not any(
            hmac.compare_digest(mac, self._mac(pepper, purpose, owner, head))
            for pepper in self._peppers.values()
        ):
            check_no_pepper_missing(self._peppers)
            raise PasskeyWrong("the challenge is not one of this session or address: try again")
        ends = datetime.fromtimestamp(int.from_bytes(head[_NONCE_BYTES:], "big"), UTC)
        if ends <= self._clock.now():
            raise PasskeyWrong("the challenge is too old: try again")
        return challenge, mac, ends

    def _use_up(self, mac: bytes, ends: datetime) -> None:
        if not store.use_challenge(self._connection, mac, ends):
            raise PasskeyWrong("the challenge was answered before: try again")

    def forget_old(self) -> None:
        """Delete the answered challenges that expired a while ago: their end alone refuses them, on each host by its own clock."""
        store.delete_expired(self._connection, self._clock.now() - CHALLENGE_LIFE)

    # A member's own passkeys.

    def is_fresh(self, session_id: UUID | None) -> bool:
        """True if the person of the session gave a code, or used a passkey, within `FRESH`."""
        if session_id is None:
            return False
        proved_at = session_store.proved_at(self._connection, session_id)
        return proved_at is not None and self._clock.now() - proved_at <= FRESH

    def _check_fresh(self, session_id: UUID | None) -> UUID:
        if session_id is None or not self.is_fresh(session_id):
            raise SignInTooOld(
                f"sign in again first: a passkey is added or removed within {int(FRESH.total_seconds() // 60)} minutes of a sign-in"
            )
        return session_id

    def of(self, subscriber_id: UUID, member_id: UUID) -> list[Passkey]:
        """The passkeys of a member, newest first."""
        key = self._vault.key(subscriber_id)
        found = []
        for row in store.of_member(self._connection, member_id):
            name = ""
            if key is not None and row.name_sealed is not None:
                name = key.open(_PLACE, row.passkey_id, row.name_sealed)
            found.append(
                Passkey(row.passkey_id, name, row.created_at, row.used_at, row.is_synced, row.cloned_at)
            )
        return found

    def options_to_add(
        self, reached: str, session_id: UUID | None, member_id: UUID, account: str, operator: str
    ) -> dict[str, object]:
        """The options for `navigator.credentials.create`, as JSON of the standard (section 5.4). `account`: what the device shows to tell
        the passkeys of one person apart; `operator`: who asks. Raises `PasskeysOff`, `SignInTooOld`.
        """
        site = self._site(reached)
        challenge = self._challenge("add", str(self._check_fresh(session_id)))
        known = store.of_member(self._connection, member_id)
        return {
            "rp": {"id": site.rp_id, "name": operator},
            "user": {"id": encode(member_id.bytes), "name": account, "displayName": account},
            "challenge": encode(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": number} for number in _ALGORITHM_IDS],
            "timeout": int(CHALLENGE_LIFE.total_seconds() * 1000),
            "excludeCredentials": [
                {"type": "public-key", "id": encode(row.credential_id), "transports": row.transports}
                for row in known
            ],
            "authenticatorSelection": {
                "residentKey": "required",
                "requireResidentKey": True,
                "userVerification": "required",
            },
            "attestation": "none",
        }

    def add(
        self,
        reached: str,
        session_id: UUID | None,
        subscriber_id: UUID,
        member_id: UUID,
        made: NewPasskey,
        name: str,
    ) -> UUID:
        """Add a passkey that an authenticator made for `options_to_add`. Returns its id.

        Raises `PasskeysOff`, `SignInTooOld`, `PasskeyWrong`, `TooManyPasskeys`, `Invalid`.
        """
        from tokenworks.trust.identity import authenticator  # noqa: PLC0415 - it takes most of a second

        site, name = self._site(reached), check_line(name, "a name", chars_max=NAME_CHARS_MAX)
        fresh_id = self._check_fresh(session_id)
        owner = str(fresh_id)
        said = authenticator.read_client_data(made.client_data)
        challenge, mac, ends = self._opened(said.challenge, "add", owner)
        new = authenticator.verify_new(
            made.client_data, made.attestation, challenge, site.rp_id, list(site.origins)
        )
        passkey_id = uuid7()
        transports = [name for name in TRANSPORTS if name in made.transports]
        with self._connection.transaction():
            # What ends all sessions of a person removes its passkeys: none may be added beside that.
            if not session_store.lock_session(self._connection, fresh_id):
                raise SignInTooOld("sign in again first: this session has ended")
            store.lock_member(self._connection, member_id)
            self._use_up(mac, ends)
            if len(store.of_member(self._connection, member_id)) >= PASSKEYS_MAX:
                raise TooManyPasskeys(f"a person has at most {PASSKEYS_MAX} passkeys: remove one first")
            row = store.PasskeyRow(
                passkey_id, subscriber_id, member_id, new.credential_id, new.public_key, site.rp_id, new.sign_count, transports,
                new.is_synced, self._sealed(subscriber_id, passkey_id, name), self._clock.now(), None, None,
            )  # fmt: skip
            if not store.add(self._connection, row):
                raise PasskeyWrong("this passkey is known already")
        return passkey_id

    def _sealed(self, subscriber_id: UUID, passkey_id: UUID, name: str) -> bytes:
        key = self._vault.key(subscriber_id)
        if key is None:
            raise PasskeyNotFound("the subscriber is erased")
        return key.seal(_PLACE, passkey_id, name)

    def rename(self, subscriber_id: UUID, member_id: UUID, passkey_id: UUID, name: str) -> bool:
        """Name a passkey of a member. Returns False if it has this name already. Raises `PasskeyNotFound`, `Invalid`."""
        name = check_line(name, "a name", chars_max=NAME_CHARS_MAX)
        if any(
            passkey.passkey_id == passkey_id and passkey.name == name
            for passkey in self.of(subscriber_id, member_id)
        ):
            return False
        sealed = self._sealed(subscriber_id, passkey_id, name)
        if not store.set_name(self._connection, passkey_id, member_id, sealed):
            raise PasskeyNotFound("there is no such passkey")
        return True

    def remove(self, session_id: UUID | None, member_id: UUID, passkey_id: UUID) -> None:
        """Remove a passkey of a member: it signs in no more. Raises `SignInTooOld`, `PasskeyNotFound`."""
        self._check_fresh(session_id)
        if not store.remove(self._connection, passkey_id, member_id):
            raise PasskeyNotFound("there is no such passkey")

    # Signing in.

    def options_to_sign_in(self, reached: str, address: str) -> dict[str, object]:
        """The options for `navigator.credentials.get` (section 5.5). They name no passkey, so they tell nobody who has one: the device
        offers those that it has. Raises `PasskeysOff`.
        """
        return {
            "challenge": encode(self._challenge("sign_in", asker_of(address))),
            "rpId": self._site(reached).rp_id,
            "timeout": int(CHALLENGE_LIFE.total_seconds() * 1000),
            "allowCredentials": [],
            "userVerification": "required",
        }

    def use(self, reached: str, address: str, answer: PasskeyAnswer) -> PasskeyUse:
        """Verify the answer to `options_to_sign_in`, use its challenge up, and store the use. The caller checks the member, and refuses
        what is cloned. Raises `PasskeysOff`, `PasskeyWrong`.
        """
        from tokenworks.trust.identity import authenticator  # noqa: PLC0415 - as above

        site, now = self._site(reached), self._clock.now()
        said = authenticator.read_client_data(answer.client_data)
        challenge, mac, ends = self._opened(said.challenge, "sign_in", asker_of(address))
        with self._connection.transaction():
            row = store.lock_credential(self._connection, answer.credential_id)
            # The handle is the id of the member: an authenticator gives it with every passkey that it found by itself.
            if row is None or row.rp_id != site.rp_id or answer.user_handle != row.member_id.bytes:
                raise PasskeyWrong("this passkey is not known here")
            used = authenticator.verify_use(
                answer.client_data, answer.authenticator_data, answer.signature, challenge, site.rp_id, list(site.origins),
                row.public_key,
            )  # fmt: skip
            self._use_up(mac, ends)
            # Authenticators that count nothing send 0 always (section 6.1.1).
            counts = used.sign_count > 0 or row.sign_count > 0
            is_cloned = row.cloned_at is not None or (counts and used.sign_count <= row.sign_count)
            if not is_cloned:
                store.store_use(self._connection, row.passkey_id, used.sign_count, now)
            elif row.cloned_at is None:
                store.mark_cloned(self._connection, row.passkey_id, now)
        return PasskeyUse(row.passkey_id, row.subscriber_id, row.member_id, is_cloned)
