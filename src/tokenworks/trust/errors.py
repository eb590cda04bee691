"""The errors of trust, in order of precedence."""

from tokenworks.kernel import Conflict, NotFound, Refused


class KeyNotFound(NotFound):
    """There is no key with this id."""


class TooManyCodes(Refused):
    """Codes for a number, or from an address, were requested too often. `wait_s`: when the next request is allowed."""

    def __init__(self, text: str, wait_s: int) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class CodeWrong(Refused):
    """The one-time code is wrong, used or expired."""


class TooManyAttempts(TooManyCodes):
    """Too many sign-ins of a staff account, or from an address, were refused. `wait_s`: when the next one is allowed."""


class SignInRefused(Refused):
    """The staff token or the code is wrong, or the code was used before."""


class SecondFactorMissing(Refused):
    """Sign-in needs an authenticator, and the staff member has none."""


class EnrolmentLinkWrong(Refused):
    """The link for setting up an authenticator is unknown, used or expired."""


class OidcRefused(Refused):
    """The OpenID provider's answer is not accepted, or no staff account belongs to it."""


class PasskeyWrong(Refused):
    """The answer of a passkey is wrong, too old, used, or of a passkey that is not known here."""


class PasskeyCloned(Refused):
    """The counter of the passkey went back: two authenticators have its key. It is blocked until its person removes it."""


class PasskeysOff(Refused):
    """Passkeys can't be used at this address: the settings name no origin, or others."""


class PasskeyNotFound(NotFound):
    """The member has no passkey with this id."""


class TooManyPasskeys(Conflict):
    """The member has as many passkeys as a member may have."""


class NotSignedIn(Refused):
    """The request has no credentials, or unknown ones."""


class NotAllowed(Refused):
    """The role of the caller does not allow this."""


class StaffExists(Conflict):
    """A staff member with this name, or one that looks like it, exists already."""


class StaffNotFound(NotFound):
    """There is no active staff member with this name."""


class SignInTooOld(NotAllowed):
    """The person of this session signed in too long ago for this: a fresh sign-in is needed."""
