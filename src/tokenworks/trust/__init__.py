"""Identity: API keys, one-time codes, sessions, staff and roles, and the pepper that all are hashed under."""

from tokenworks.trust.errors import (
    CodeWrong,
    KeyNotFound,
    NotAllowed,
    NotSignedIn,
    StaffExists,
    StaffNotFound,
    TooManyCodes,
)
from tokenworks.trust.identity import (
    CODE_LIFE,
    STAFF_ROLES,
    Challenge,
    Identity,
    Principal,
    Role,
    Session,
    StaffRole,
    asker_of,
)
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.pepper import ensure_pepper, load_peppers
from tokenworks.trust.service import Keys

__all__ = [
    "CODE_LIFE",
    "STAFF_ROLES",
    "ApiKey",
    "ApiKeyInfo",
    "Challenge",
    "CodeWrong",
    "Identity",
    "KeyNotFound",
    "Keys",
    "NotAllowed",
    "NotSignedIn",
    "Principal",
    "Role",
    "Session",
    "StaffExists",
    "StaffNotFound",
    "StaffRole",
    "TooManyCodes",
    "asker_of",
    "ensure_pepper",
    "is_key",
    "key_mac",
    "load_peppers",
]
