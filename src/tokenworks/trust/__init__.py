"""Identity: API keys, one-time codes, sessions, staff and roles, and the pepper that all are hashed under."""

from tokenworks.trust.approvals import Approval, ApprovalNeeded, ApprovalNotFound, Approvals
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
from tokenworks.trust.pepper import (
    Peppers,
    check_first_pepper,
    check_peppers,
    ensure_pepper,
    load_peppers,
    new_pepper,
    retire_pepper,
    settle_issuing,
    use_pepper,
)
from tokenworks.trust.service import Keys
from tokenworks.trust.skeleton import skeleton
from tokenworks.trust.store import peppers as all_peppers

__all__ = [
    "CODE_LIFE",
    "STAFF_ROLES",
    "ApiKey",
    "ApiKeyInfo",
    "Approval",
    "ApprovalNeeded",
    "ApprovalNotFound",
    "Approvals",
    "Challenge",
    "CodeWrong",
    "Identity",
    "KeyNotFound",
    "Keys",
    "NotAllowed",
    "NotSignedIn",
    "Peppers",
    "Principal",
    "Role",
    "Session",
    "StaffExists",
    "StaffNotFound",
    "StaffRole",
    "TooManyCodes",
    "all_peppers",
    "asker_of",
    "check_first_pepper",
    "check_peppers",
    "ensure_pepper",
    "is_key",
    "key_mac",
    "load_peppers",
    "new_pepper",
    "retire_pepper",
    "settle_issuing",
    "skeleton",
    "use_pepper",
]
