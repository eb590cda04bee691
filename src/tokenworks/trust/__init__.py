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
from tokenworks.trust.identity import STAFF_ROLES, Identity, Principal, Role, StaffRole, audit_details
from tokenworks.trust.lookup import TAIL_DIGITS, has_part, normal_id_number
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.pepper import ensure_pepper, load_peppers
from tokenworks.trust.service import Keys
from tokenworks.trust.vault import NOBODY, PersonKey, PersonVault
from tokenworks.trust.vault_secrets import VaultSecrets, add_wrapping_key, load_vault_secrets

__all__ = [
    "NOBODY",
    "STAFF_ROLES",
    "TAIL_DIGITS",
    "ApiKey",
    "ApiKeyInfo",
    "CodeWrong",
    "Identity",
    "KeyNotFound",
    "Keys",
    "NotAllowed",
    "NotSignedIn",
    "PersonKey",
    "PersonVault",
    "Principal",
    "Role",
    "StaffExists",
    "StaffNotFound",
    "StaffRole",
    "TooManyCodes",
    "VaultSecrets",
    "add_wrapping_key",
    "audit_details",
    "ensure_pepper",
    "has_part",
    "is_key",
    "key_mac",
    "load_peppers",
    "load_vault_secrets",
    "normal_id_number",
]
