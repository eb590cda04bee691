"""Identity: API keys and the pepper they are hashed under."""

from tokenworks.trust.errors import KeyNotFound
from tokenworks.trust.model import ApiKey, ApiKeyInfo, is_key, key_mac
from tokenworks.trust.pepper import ensure_pepper, load_peppers
from tokenworks.trust.service import Keys

__all__ = [
    "ApiKey",
    "ApiKeyInfo",
    "KeyNotFound",
    "Keys",
    "ensure_pepper",
    "is_key",
    "key_mac",
    "load_peppers",
]
