"""Settings of staff sign-in: the second factor, sessions, the OpenID provider."""

from typing import Final

from pydantic import Field, field_validator

from tokenworks.app.settings.topic import Topic

STAFF_ROLES: Final = ("operator", "finance", "auditor")


class Staff(Topic):
    """Sign-in of staff on /ops: sessions, codes of an authenticator, an OpenID provider."""

    staff_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,200})?$",
        description="the URL under which staff reach /ops, https://ops.example: an OpenID provider sends browsers back there, and other hosts' "
        "names are refused; empty: the address of staff_listen, on loopback alone",
    )
    staff_totp: bool = Field(
        default=False,
        description="a sign-in by staff token needs a code of an authenticator (`staff enrol`); false: only from a member who has one, and always "
        "elsewhere than on loopback",
    )
    staff_session_idle_min: int = Field(
        default=30, ge=5, le=1440, description="a session of staff without a request for so long has ended"
    )
    staff_session_hours: int = Field(
        default=12, ge=1, le=168, description="a session of staff ends after so long in any case"
    )
    staff_oidc_issuer: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,300})?$",
        description="the issuer of an OpenID provider with which staff sign in, exactly as its discovery document names it; http on loopback "
        "alone; empty: none",
    )
    staff_oidc_client_id: str = Field(
        default="",
        max_length=200,
        description="our client id at the provider; the client's secret is in secrets_dir/oidc-client-secret, a public client has none",
    )
    staff_oidc_roles_claim: str = Field(
        default="groups",
        pattern=r"^[!-~]{1,100}$",
        description="the claim with a person's groups, of the ID token or the user info",
    )
    staff_oidc_roles: str = Field(
        default="",
        max_length=4000,
        description="the roles of groups, group=operator, group=finance, …, the first that fits counts with each sign-in, and without one a "
        "person is refused; empty: the role of the account counts",
    )
    staff_oidc_creates: bool = Field(
        default=False,
        description="a person of a group in staff_oidc_roles whom no account names gets one at the first sign-in",
    )

    @field_validator("staff_oidc_roles")
    @classmethod
    def _roles(cls, value: str) -> str:
        for part in filter(None, map(str.strip, value.split(","))):
            group, equals, role = part.rpartition("=")
            if not equals or not group or role not in STAFF_ROLES:
                raise ValueError("it is group=operator, group=finance or group=auditor, with commas between")
        return value

    @property
    def staff_roles_of_groups(self) -> dict[str, str]:
        """Group -> role, in order."""
        parts = (
            part.rpartition("=") for part in filter(None, map(str.strip, self.staff_oidc_roles.split(",")))
        )
        return {group: role for group, _, role in parts}
