"""The second factor of staff: codes of an authenticator (TOTP, RFC 6238), and recovery codes.

The secret is 160 bits, sealed under the installation's own key. A code is valid in its time step of 30 seconds and in the steps beside
it (RFC 6238, section 5.2), and once: a step whose code was used, and all earlier steps, are refused. Refused sign-ins are counted by
account and by asker. An account is known only with its staff token, and a right token is not refused for the wrong ones of its asker, so
a stranger cannot lock out a person.
"""

import hmac
import secrets
from base64 import b32encode
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, is_digits, uuid7
from tokenworks.trust.errors import CodeWrong, EnrolmentLinkWrong, TooManyAttempts
from tokenworks.trust.identity import second_factor_store as store
from tokenworks.trust.identity.service import asker_of
from tokenworks.trust.keys.pepper import check_no_pepper_missing, issuing
from tokenworks.trust.model import key_mac
from tokenworks.trust.vault.service import PersonVault

if TYPE_CHECKING:
    from pyotp import TOTP

STEP_S: Final = 30
# Time steps before and after the current one whose codes are accepted: clocks of phones differ.
STEPS_BESIDE: Final = 1
CODE_DIGITS: Final = 6
LINK_LIFE: Final = timedelta(hours=24)
RECOVERY_CODES: Final = 10
# 80 bits: 16 letters and digits of base32.
RECOVERY_BYTES: Final = 10
RECOVERY_CHARS: Final = 16
# Limits as (refused sign-ins, time span). Of an account: 20 guesses a day, each right with 3 of a million, are 6 in 100,000 a day.
ATTEMPTS_PER_ACCOUNT: Final = ((5, timedelta(minutes=15)), (20, timedelta(days=1)))
# Of an asker: an office behind one address may have many who mistype; a token of 256 bits is not guessed.
ATTEMPTS_PER_ASKER: Final = ((50, timedelta(minutes=15)),)
ATTEMPTS_KEPT: Final = timedelta(days=2)


class Enrolment(NamedTuple):
    """What an authenticator is set up with. `uri`: the key URI that authenticators read (otpauth://totp/…)."""

    staff_id: UUID
    secret: str
    uri: str


class SecondFactor:
    """Authenticators and recovery codes of staff, on one connection. `issuer`: the name that an authenticator shows."""

    def __init__(
        self, connection: Connection, peppers: dict[int, bytes], clock: Clock, vault: PersonVault, issuer: str
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._vault = vault
        self._issuer = issuer

    def _mac(self, kind: str, text: str) -> bytes:
        return key_mac(self._peppers[issuing(self._peppers)], f"{kind}:{text}")

    def _macs(self, kind: str, text: str) -> list[bytes]:
        return [key_mac(pepper, f"{kind}:{text}") for pepper in self._peppers.values()]

    def make_link(self, staff_id: UUID) -> str:
        """Make the text of a one-time link with which a staff member sets up an authenticator, and forget its refused sign-ins. An
        earlier authenticator stays in force until the new one is confirmed.
        """
        text, totp_id, now = f"twl_{secrets.token_urlsafe(32)}", uuid7(), self._clock.now()
        from pyotp import random_base32  # noqa: PLC0415 - few commands need it

        sealed = self._vault.own().seal("staff_totp.secret", totp_id, random_base32())
        with self._connection.transaction():
            store.begin(
                self._connection,
                totp_id,
                staff_id,
                sealed,
                self._mac("staff_link", text),
                now,
                now + LINK_LIFE,
            )
            store.forget_attempts(self._connection, staff_id)
        return text

    def _begun(self, link: str) -> store.TotpRow:
        found = None
        if link.startswith("twl_") and len(link) <= 100:
            found = store.find_begun(self._connection, self._macs("staff_link", link), self._clock.now())
        if found is None:
            check_no_pepper_missing(self._peppers)
            raise EnrolmentLinkWrong(
                "the link was used, or is older than a day: ask an administrator for a new one"
            )
        return found

    def owner_of(self, link: str) -> UUID:
        """The staff member of a link that is neither used nor expired. Raises `EnrolmentLinkWrong`."""
        return self._begun(link).staff_id

    def enrolment(self, link: str, name: str) -> Enrolment:
        """What the authenticator of a link is set up with. `name`: of its staff member. Raises `EnrolmentLinkWrong`."""
        row = self._begun(link)
        secret = self._secret(row)
        uri = _totp(secret).provisioning_uri(name=name, issuer_name=self._issuer)
        return Enrolment(row.staff_id, secret, uri)

    def confirm(self, link: str, code: str) -> list[str]:
        """Put the authenticator of a link into force, by its first code. Returns the recovery codes, which cannot be read again.

        Raises `EnrolmentLinkWrong`, `CodeWrong`. The caller counts a wrong code.
        """
        with self._connection.transaction():
            row = self._begun(link)
            step = self._step_of(row, code)
            if step is None:
                raise CodeWrong("the code is wrong: enter the one that your authenticator shows now")
            store.confirm(self._connection, row, step, self._clock.now())
            texts = [_recovery_text() for _ in range(RECOVERY_CODES)]
            macs = [(uuid7(), self._mac("staff_recovery", _normal(text))) for text in texts]
            store.add_recovery_codes(self._connection, row.totp_id, macs)
        return texts

    def _secret(self, row: store.TotpRow) -> str:
        return self._vault.own().open("staff_totp.secret", row.totp_id, row.secret_sealed)

    def _step_of(self, row: store.TotpRow, code: str) -> int | None:
        """The time step of which this is the code; None if it is of none that may be used. Compares all steps in constant time."""
        if len(code) != CODE_DIGITS or not is_digits(code, CODE_DIGITS):
            return None
        totp = _totp(self._secret(row))
        now_step = int(self._clock.now().timestamp()) // STEP_S
        found = None
        for step in range(now_step - STEPS_BESIDE, now_step + STEPS_BESIDE + 1):
            same = hmac.compare_digest(totp.generate_otp(step), code)
            if same and (row.used_step is None or step > row.used_step):
                found = step
        return found

    def is_enrolled(self, staff_id: UUID) -> bool:
        return store.find_confirmed(self._connection, staff_id) is not None

    def recovery_codes_left(self, staff_id: UUID) -> int:
        """How many recovery codes are unused; 0 without an authenticator."""
        row = store.find_confirmed(self._connection, staff_id)
        return 0 if row is None else store.count_recovery_codes(self._connection, row.totp_id)

    def use(self, staff_id: UUID, code: str) -> Literal["totp", "recovery_code"] | None:
        """Use a code up, of the authenticator or for recovery. Returns its kind; None if it is wrong or used. The caller holds the lock of
        the staff member, so that concurrent requests with one code run one after the other.

        Raises `Unavailable` if a recovery code is not found and this host lacks a pepper: it is not counted as a wrong one.
        """
        row = store.find_confirmed(self._connection, staff_id)
        if row is None:
            return None
        step = self._step_of(row, code)
        if step is not None:
            store.use_step(self._connection, row.totp_id, step)
            return "totp"
        normal = _normal(code)
        macs = self._macs("staff_recovery", normal)
        if store.use_recovery_code(self._connection, row.totp_id, macs, self._clock.now()):
            return "recovery_code"
        if len(normal) == RECOVERY_CHARS:
            check_no_pepper_missing(self._peppers)
        return None

    # Refused sign-ins.

    def check_attempts(self, staff_id: UUID | None, address: str) -> None:
        """Check the limits of an account, or (None) of an asker. Raises `TooManyAttempts`."""
        now, asker = self._clock.now(), asker_of(address)
        for count, span in ATTEMPTS_PER_ASKER if staff_id is None else ATTEMPTS_PER_ACCOUNT:
            oldest = store.nth_newest_attempt(self._connection, staff_id, asker, count, now - span)
            if oldest is not None:
                wait_s = max(1, int((oldest + span - now).total_seconds()) + 1)
                raise TooManyAttempts(
                    f"too many sign-ins were refused: try again in {wait_s} s, or ask an administrator for a new link",
                    wait_s,
                )

    def count_attempt(self, staff_id: UUID | None, address: str) -> None:
        store.add_attempt(self._connection, uuid7(), staff_id, asker_of(address), self._clock.now())

    def forget_old(self) -> None:
        """Delete refused sign-ins that no limit counts any more."""
        store.delete_old(self._connection, self._clock.now() - ATTEMPTS_KEPT)


def _totp(secret: str) -> "TOTP":
    from pyotp import TOTP  # noqa: PLC0415 - few commands need it

    return TOTP(secret, digits=CODE_DIGITS, interval=STEP_S)


def _recovery_text() -> str:
    text = b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _normal(code: str) -> str:
    """A recovery code as its MAC is made: as people type it, with or without its dashes."""
    return code.replace("-", "").replace(" ", "").lower()[:32]
