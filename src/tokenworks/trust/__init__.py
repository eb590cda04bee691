"""Identity: API keys, one-time codes, sessions, staff and roles, idempotency keys, and the pepper that all are hashed under."""

from tokenworks.trust.answers import Answers, KeptAnswer, KeyReused
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
from tokenworks.trust.hosts import HostSecrets, host_secrets, report_secrets
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
    audit_details,
)
from tokenworks.trust.lookup import TAIL_DIGITS, has_part, normal_id_number
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.money_moves import ALONE, MONEY_MOVES, MoneyMove
from tokenworks.trust.pepper import (
    PEPPER_BYTES,
    Peppers,
    check_first_pepper,
    check_peppers,
    ensure_pepper,
    fingerprint,
    issuing,
    load_peppers,
    new_pepper,
    retire_pepper,
    settle_issuing,
    use_pepper,
)
from tokenworks.trust.pepper_versions import PepperVersions
from tokenworks.trust.persons import Document, checked_id_number
from tokenworks.trust.secret_files import (
    PEPPER,
    WEBHOOK,
    WEBHOOK_OLD,
    WRAP,
    make_secret,
    read_private,
    read_secret,
    strays,
    versions_of,
)
from tokenworks.trust.service import Keys
from tokenworks.trust.skeleton import skeleton
from tokenworks.trust.store import peppers as all_peppers
from tokenworks.trust.vault import NOBODY, PersonKey, PersonVault
from tokenworks.trust.vault_secrets import (
    VAULT_KEY_BYTES,
    VaultSecrets,
    add_wrapping_key,
    load_vault_secrets,
    wrapping_fingerprint,
)
from tokenworks.trust.vault_store import wrapping_known

__all__ = [
    "ALONE",
    "CODE_LIFE",
    "MONEY_MOVES",
    "NOBODY",
    "PEPPER",
    "PEPPER_BYTES",
    "STAFF_ROLES",
    "TAIL_DIGITS",
    "VAULT_KEY_BYTES",
    "WEBHOOK",
    "WEBHOOK_OLD",
    "WRAP",
    "Answers",
    "ApiKey",
    "ApiKeyInfo",
    "Approval",
    "ApprovalNeeded",
    "ApprovalNotFound",
    "Approvals",
    "Challenge",
    "CodeWrong",
    "Document",
    "HostSecrets",
    "Identity",
    "KeptAnswer",
    "KeyNotFound",
    "KeyReused",
    "Keys",
    "MoneyMove",
    "NotAllowed",
    "NotSignedIn",
    "PepperVersions",
    "Peppers",
    "PersonKey",
    "PersonVault",
    "Principal",
    "Role",
    "Session",
    "StaffExists",
    "StaffNotFound",
    "StaffRole",
    "TooManyCodes",
    "VaultSecrets",
    "add_wrapping_key",
    "all_peppers",
    "asker_of",
    "audit_details",
    "check_first_pepper",
    "check_peppers",
    "checked_id_number",
    "ensure_pepper",
    "fingerprint",
    "has_part",
    "host_secrets",
    "is_key",
    "issuing",
    "key_mac",
    "load_peppers",
    "load_vault_secrets",
    "make_secret",
    "new_pepper",
    "normal_id_number",
    "read_private",
    "read_secret",
    "report_secrets",
    "retire_pepper",
    "settle_issuing",
    "skeleton",
    "strays",
    "use_pepper",
    "versions_of",
    "wrapping_fingerprint",
    "wrapping_known",
]
