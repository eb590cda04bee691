"""Identity: API keys, one-time codes, sessions, staff and roles, idempotency keys, and the pepper that all are hashed under."""

from tokenworks.trust.answers import Answers, KeptAnswer, KeyReused
from tokenworks.trust.errors import (
    CodeWrong,
    KeyNotFound,
    NotAllowed,
    NotSignedIn,
    StaffExists,
    StaffNotFound,
    TooManyCodes,
)
from tokenworks.trust.identity import STAFF_ROLES, Identity, Principal, Role, StaffRole
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.pepper import ensure_pepper, load_peppers
from tokenworks.trust.persons import Document, Persons
from tokenworks.trust.service import Keys

__all__ = [
    "STAFF_ROLES",
    "Answers",
    "ApiKey",
    "ApiKeyInfo",
    "CodeWrong",
    "Document",
    "Identity",
    "KeptAnswer",
    "KeyNotFound",
    "KeyReused",
    "Keys",
    "NotAllowed",
    "NotSignedIn",
    "Persons",
    "Principal",
    "Role",
    "StaffExists",
    "StaffNotFound",
    "StaffRole",
    "TooManyCodes",
    "ensure_pepper",
    "is_key",
    "key_mac",
    "load_peppers",
]
