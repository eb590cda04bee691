"""A content that lies with a client is opened for its member alone, unchanged, and not at all once the person's key is gone."""

import uuid

from tokenworks.trust import (
    SEALED_KEY_BYTES,
    PersonKey,
    new_content_key,
    open_content,
    open_content_key,
    seal_content,
)


def test_a_key_is_opened_for_its_owner_under_its_persons_key_alone():
    person, other, owner = (
        PersonKey(uuid.uuid4(), b"p" * 32),
        PersonKey(uuid.uuid4(), b"p" * 32),
        uuid.uuid4(),
    )
    key, sealed = new_content_key(person, owner)
    assert len(sealed) == SEALED_KEY_BYTES and key not in sealed
    assert open_content_key(person, owner, sealed) == key
    assert open_content_key(person, uuid.uuid4(), sealed) is None
    assert open_content_key(other, owner, sealed) is None
    for at in (0, 5, 20, SEALED_KEY_BYTES - 1):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        assert open_content_key(person, owner, changed) is None
    assert open_content_key(person, owner, b"") is None
    assert new_content_key(person, owner)[0] != key


def test_a_content_that_was_changed_is_not_opened():
    content = b"what was said"
    sealed = seal_content(b"k" * 32, content)
    assert content not in sealed and open_content(b"k" * 32, sealed) == content
    assert sealed != seal_content(b"k" * 32, content)
    assert open_content(b"l" * 32, sealed) is None
    for changed in (sealed[:-1], b"", sealed[1:], sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:]):
        assert open_content(b"k" * 32, changed) is None
