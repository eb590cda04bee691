"""Keys of contents that lie with a client, as the items of a compaction do: a key for each content, sealed under the key of a person.

A worker has the key while it seals or opens one content, and no key of a person. The sealed key lies beside the content, so that a host
can give the key back without a row for it. Once the person's key is destroyed, no such content can be read any more, wherever it lies.
The cipher is AES-256-GCM, as in the vault.
"""

import os
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenworks.kernel import Unavailable
from tokenworks.trust.vault.service import NONCE_BYTES, PERSON_KEY_BYTES, PersonKey

CONTENT_KEY_BYTES: Final = PERSON_KEY_BYTES
TAG_BYTES: Final = 16
# A format byte, a nonce, the key and its tag.
SEALED_KEY_BYTES: Final = 1 + NONCE_BYTES + CONTENT_KEY_BYTES + TAG_BYTES
_PLACE: Final = "content key"


def new_content_key(person: PersonKey, owner_id: UUID) -> tuple[bytes, bytes]:
    """(a new key, the key sealed for its owner). `owner_id`: the member who alone may have it opened."""
    key = AESGCM.generate_key(CONTENT_KEY_BYTES * 8)
    sealed = person.seal_bytes(_PLACE, owner_id, key)
    assert len(sealed) == SEALED_KEY_BYTES, "the length of a sealed key tells it from its content"
    return key, sealed


def open_content_key(person: PersonKey, owner_id: UUID, sealed: bytes) -> bytes | None:
    """The key; None if it was not sealed for this owner under this person's key."""
    try:
        return person.open_bytes(_PLACE, owner_id, sealed)
    except Unavailable:
        return None


def seal_content(key: bytes, content: bytes) -> bytes:
    """Encrypt a content. The caller limits its length."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, None)


def open_content(key: bytes, sealed: bytes) -> bytes | None:
    """The content; None if it was changed, or sealed with another key."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        return None
