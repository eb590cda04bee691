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
from tokenworks.trust.identity.answers import Answers, KeyReused, StoredAnswer
from tokenworks.trust.identity.approvals import Approval, ApprovalNeeded, ApprovalNotFound, Approvals
from tokenworks.trust.identity.money_moves import MONEY_MOVES, ONE_PERSON_OPERATIONS, MoneyMove
from tokenworks.trust.identity.roles import STAFF_ROLES, Role, StaffRole
from tokenworks.trust.identity.service import (
    CODE_LIFE,
    Challenge,
    Identity,
    Principal,
    Session,
    asker_of,
    audit_details,
)
from tokenworks.trust.keys.pepper import (
    PEPPER_BYTES,
    Peppers,
    check_first_pepper,
    check_peppers,
    choose_issuing,
    ensure_pepper,
    fingerprint,
    issuing,
    load_peppers,
    new_pepper,
    retire_pepper,
    use_pepper,
)
from tokenworks.trust.keys.service import Keys
from tokenworks.trust.keys.store import peppers as all_peppers
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.pepper_versions import PepperVersions
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
from tokenworks.trust.vault.lookup import TAIL_DIGITS, has_part, normal_id_number
from tokenworks.trust.vault.persons import Document, checked_id_number
from tokenworks.trust.vault.secrets import (
    VAULT_KEY_BYTES,
    VaultSecrets,
    add_wrapping_key,
    load_vault_secrets,
    wrapping_fingerprint,
)
from tokenworks.trust.vault.service import NO_PERSON, PersonKey, PersonVault
from tokenworks.trust.vault.skeleton import skeleton
from tokenworks.trust.vault.store import wrapping_known
from tokenworks.trust.webhook_secret import WebhookSecret

__all__ = [
    "CODE_LIFE",
    "MONEY_MOVES",
    "NO_PERSON",
    "ONE_PERSON_OPERATIONS",
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
    "StoredAnswer",
    "TooManyCodes",
    "VaultSecrets",
    "WebhookSecret",
    "add_wrapping_key",
    "all_peppers",
    "asker_of",
    "audit_details",
    "check_first_pepper",
    "check_peppers",
    "checked_id_number",
    "choose_issuing",
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
    "skeleton",
    "strays",
    "use_pepper",
    "versions_of",
    "wrapping_fingerprint",
    "wrapping_known",
]
