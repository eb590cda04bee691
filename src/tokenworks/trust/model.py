"""API keys: the format of their text, its checksum and MAC, and the types of a known key. The bound of a credential's id."""

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_SECRET_CHARS: Final = 30
KEY_CHECK_CHARS: Final = 6
KEY_CHARS_MAX: Final = 64
# The longest id of a passkey's credential (W3C Web Authentication Level 3, section 4, "Credential ID").
CREDENTIAL_ID_BYTES_MAX: Final = 1023


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key may do. The text of a key is never stored, only its MAC.

    `models` is None if every model is allowed. `cap_bucket_id`: the bucket of the key's own cap. Times are milliseconds since 1970.
    """

    key_id: UUID
    account_id: UUID
    member_id: UUID
    models: frozenset[str] | None
    cap_bucket_id: UUID | None
    expires_at_ms: int | None
    # The origins of pages that may use the key (`https://app.example`); None: those that the server allows.
    origins: frozenset[str] | None = None
    # The models to which its requests fall back, in order; None: those of the plan.
    fallbacks: tuple[str, ...] | None = None
    # Its requests and answers are logged, since its holder wants it.
    content_log: bool = False
    # Its requests wish the response cache, unless they say otherwise.
    response_cache: bool = False


@dataclass(frozen=True, slots=True)
class ApiKeyInfo:
    """A key as its owner sees it in a list: never its text."""

    key_id: UUID
    name: str
    hint: str
    models: tuple[str, ...] | None
    cap_tokens: int | None
    expires_at: datetime | None
    created_at: datetime
    revoked_at: datetime | None
    # The time of the last request with this key, to a minute.
    used_at: datetime | None = None
    fallbacks: tuple[str, ...] | None = None
    content_log: bool = False
    response_cache: bool = False


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), KEY_CHECK_CHARS)


def format_key(environment: str, secret: int) -> str:
    """`twk_<env>_<30 base62><6 base62 CRC32>`. 30 base62 characters carry 178 bits of `secret`."""
    body = f"twk_{environment}_{_base62(secret, KEY_SECRET_CHARS)}"
    return body + _check(body)


def is_key(text: str) -> bool:
    """True if the text has the form of a key and its checksum is right. So a typo needs no look-up."""
    if not text.startswith("twk_") or not KEY_SECRET_CHARS < len(text) <= KEY_CHARS_MAX or not text.isascii():
        return False
    return hmac.compare_digest(_check(text[:-KEY_CHECK_CHARS]), text[-KEY_CHECK_CHARS:])


FOREIGN_PREFIX: Final = "sk-"
# The fewest characters of a foreign key that is looked up: a shorter one could be guessed. LiteLLM makes 25, one-api and new-api 51.
FOREIGN_CHARS_MIN: Final = 24
FOREIGN_CHARS_MAX: Final = 160


def is_foreign_key(text: str) -> bool:
    """True if the text has the form of a key of another system. Such a key has no checksum."""
    return (
        text.startswith(FOREIGN_PREFIX)
        and FOREIGN_CHARS_MIN <= len(text) <= FOREIGN_CHARS_MAX
        and text.isascii()
        and text.isprintable()
    )


def foreign_mac(pepper: bytes, sha256_hex: str) -> bytes:
    """The MAC of a foreign key by the SHA-256 of its text: LiteLLM stores no more than that. No key of ours has such a text."""
    return key_mac(pepper, f"foreign:{sha256_hex}")


def foreign_sha256(text: str) -> str:
    """The SHA-256 of a foreign key's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_mac(pepper: bytes, text: str) -> bytes:
    """BLAKE2b keyed with the pepper (RFC 7693, section 2.9): a MAC of 32 bytes, at a third of HMAC-SHA256's cost."""
    return hashlib.blake2b(text.encode(), key=pepper, digest_size=32).digest()
