"""Personal texts: encrypted under a key of the person's own, which is wrapped by a key outside the database.

A person is a subscriber, or a member of one's account who is not its owner; the id of that row is the person's id. AES-256-GCM
(NIST SP 800-38D) with a random nonce of 96 bits. The associated data name the column, the row and the person, so that a
ciphertext that is moved to another row, column or person does not decrypt. Destroying the wrapped key makes all that was
encrypted under it unreadable, wherever it was copied to without the key; a backup that has both forgets when it is deleted.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import Connection

from tokenworks.kernel import Unavailable
from tokenworks.trust.hosts import HostSecrets, refuse_where_missing
from tokenworks.trust.secret_files import WRAP
from tokenworks.trust.vault import store
from tokenworks.trust.vault.lookup import Lookup
from tokenworks.trust.vault.secrets import VaultSecrets

FORMAT: Final = b"\x01"
NONCE_BYTES: Final = 12
PERSON_KEY_BYTES: Final = 32
TEXT_BYTES_MAX: Final = 1_048_576
REWRAP_BATCH: Final = 1000
# Whose key encrypts what is about no person in particular: the installation's own.
NO_PERSON: Final = UUID(int=0)


class PersonKey:
    """One person's key, in memory for as long as it is used."""

    __slots__ = ("_cipher", "person_id")

    def __init__(self, person_id: UUID, key: bytes) -> None:
        self.person_id = person_id
        self._cipher = AESGCM(key)

    def _bound_to(self, place: str, row_id: UUID) -> bytes:
        return b"\0".join((b"tokenworks", place.encode(), row_id.bytes, self.person_id.bytes))

    def seal(self, place: str, row_id: UUID, text: str) -> bytes:
        """`place` names the column, such as `subscriber.phone`."""
        plain = text.encode()
        assert len(plain) <= TEXT_BYTES_MAX, "a personal text is bounded where it is read"
        return self.seal_bytes(place, row_id, plain)

    def seal_bytes(self, place: str, row_id: UUID, content: bytes) -> bytes:
        """As `seal`, of what is no text of a person's but names one: an answer, a message. Bounded where it is made."""
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._cipher.encrypt(nonce, content, self._bound_to(place, row_id))

    def open(self, place: str, row_id: UUID, sealed: bytes) -> str:
        """Raises `Unavailable` where it is not what was sealed for this column, row and person."""
        return self.open_bytes(place, row_id, sealed).decode()

    def open_bytes(self, place: str, row_id: UUID, sealed: bytes) -> bytes:
        """Raises `Unavailable` as `open` does."""
        nonce, content = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            if sealed[:1] != FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(nonce, content, self._bound_to(place, row_id))
        except (InvalidTag, ValueError):
            raise Unavailable(
                f"{place} of row {row_id} can't be decrypted: it was changed, or belongs to another row or person"
            ) from None


class PersonVault:
    """Person keys on one connection. What is encrypted stays in the tables of the rooms that own it."""

    def __init__(self, connection: Connection, secrets: VaultSecrets) -> None:
        self.connection = connection
        self._secrets = secrets
        self._checked = False
        self.lookup = Lookup(secrets.lookup)

    def add(self, person_id: UUID) -> PersonKey:
        """A new person's key, in the caller's transaction."""
        key, version = AESGCM.generate_key(PERSON_KEY_BYTES * 8), self._wraps_with()
        added = store.add_key(self.connection, person_id, self._wrap(person_id, key, version), version)
        assert added, f"person {person_id} has a key already"
        return PersonKey(person_id, key)

    def add_many(self, person_ids: Sequence[UUID]) -> dict[UUID, PersonKey]:
        """New keys of many, in the caller's transaction."""
        version, keys = self._wraps_with(), {}
        rows = []
        for person_id in person_ids:
            key = AESGCM.generate_key(PERSON_KEY_BYTES * 8)
            keys[person_id] = PersonKey(person_id, key)
            rows.append((person_id, self._wrap(person_id, key, version), version))
        store.add_keys(self.connection, rows)
        return keys

    def key(self, person_id: UUID) -> PersonKey | None:
        """None where the person was erased, or is not known."""
        return self.keys([person_id]).get(person_id)

    def ensure(self, person_id: UUID) -> PersonKey | None:
        """The person's key, made where there is none yet; None where it was destroyed."""
        if person_id not in store.states(self.connection, [person_id]):
            key, version = AESGCM.generate_key(PERSON_KEY_BYTES * 8), self._wraps_with()
            # Where another connection was faster, that one's key is the person's.
            store.add_key(self.connection, person_id, self._wrap(person_id, key, version), version)
        return self.key(person_id)

    def keys(self, person_ids: Iterable[UUID]) -> dict[UUID, PersonKey]:
        """By person; those who were erased are absent."""
        wanted = list(dict.fromkeys(person_ids))
        if not wanted:
            return {}
        return {
            person_id: PersonKey(person_id, self._unwrap(person_id, wrapped, version))
            for person_id, wrapped, version in store.wrapped_keys(self.connection, wanted)
        }

    def own(self) -> PersonKey:
        """The installation's own key: of what is about no person, or about one who was erased and names nobody any more."""
        key = self.ensure(NO_PERSON)
        assert key is not None, "the installation's own key is never destroyed"
        return key

    def open(self, person_id: UUID, place: str, row_id: UUID, sealed: bytes | None) -> str | None:
        """One text; None where there is none, or the person was erased."""
        key = None if sealed is None else self.key(person_id)
        return None if key is None or sealed is None else key.open(place, row_id, sealed)

    def forget(self, person_id: UUID) -> None:
        """A key that nothing was kept under, in the transaction that made it."""
        store.delete_key(self.connection, person_id)

    def destroy(self, person_ids: Sequence[UUID]) -> int:
        """Erase: nothing that was encrypted under these keys can be read any more. Returns how many there were."""
        return store.destroy(self.connection, list(person_ids))

    # The secrets.

    def check_secrets(self) -> None:
        """Compare the secrets with the database's fingerprints, which are written as soon as there is a person. Raises
        `Unavailable`.
        """
        known: Mapping[str, bytes] = store.fingerprints(self.connection)
        mine = self._secrets.fingerprints()
        for name, fingerprint in mine.items():
            if known.get(name, fingerprint) != fingerprint:
                raise Unavailable(
                    f"{name} of this host is not the one that the database was written with: copy the secrets directory "
                    "of a host that serves, or restore it from its backup"
                )
        used = store.versions(self.connection)
        missing = used - set(self._secrets.wrapping)
        if missing:
            raise Unavailable(
                self._secrets.flaws.get(min(missing))
                or f"this host has no person-wrap-{min(missing)}, which keys in the database are wrapped with: copy it from a "
                "host that serves, or restore it from the backup of the secrets"
            )
        if used and mine.keys() - known.keys():
            # It opens what is there, so it is the right one.
            for version in used:
                person_id, wrapped = store.any_of_version(self.connection, version)
                self._unwrap(person_id, wrapped, version)
            for name, fingerprint in mine.items():
                store.add_fingerprint(self.connection, name, fingerprint)

    def _wraps_with(self) -> int:
        """The version that a new person's key is wrapped with: the newest that is in use. A newer one is used from its `rewrap`
        on, when every host has it. Raises `Unavailable` where this host has other secrets than the database was written with: at
        its start there may have been nobody yet to tell by.
        """
        used = store.versions(self.connection)
        if used and not self._checked:
            self.check_secrets()
            self._checked = True
        return max(used, default=self._secrets.version)

    def older(self) -> int:
        """How many keys are wrapped with an older version."""
        return store.count_older(self.connection, self._secrets.version)

    def is_newest_on(self, host: HostSecrets) -> bool:
        """True for a host that has loaded the newest version here."""
        return self._secrets.version in host.wrapping

    def check_hosts(self, hosts: Sequence[HostSecrets]) -> None:
        """Raises `Conflict` where one of these hosts could not open what is wrapped with the newest version."""
        refuse_where_missing(hosts, f"{WRAP}{self._secrets.version}", self.is_newest_on)

    def rewrap(self) -> int:
        """Wrap a batch of keys that have an older version with the newest one. Returns how many; 0 at the end."""
        version = self._secrets.version
        with self.connection.transaction():
            rows = store.lock_older(self.connection, version, REWRAP_BATCH)
            for person_id, wrapped, old in rows:
                key = self._unwrap(person_id, wrapped, old)
                store.set_wrapped(self.connection, person_id, self._wrap(person_id, key, version), version)
        return len(rows)

    def _cipher(self, version: int) -> AESGCM:
        found = self._secrets.wrapping.get(version)
        if found is None:
            raise Unavailable(f"this host has no person-wrap-{version}: copy it from a host that serves")
        return AESGCM(found)

    def _wrapped_for(self, person_id: UUID) -> bytes:
        """The associated data of a wrapped key: the person, and the lookup key, so that a host with another one opens nothing
        rather than finding nobody.
        """
        return b"person_key\0" + person_id.bytes + self._secrets.lookup_fingerprint

    def _wrap(self, person_id: UUID, key: bytes, version: int) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(version).encrypt(nonce, key, self._wrapped_for(person_id))

    def _unwrap(self, person_id: UUID, wrapped: bytes, version: int) -> bytes:
        cipher = self._cipher(version)
        try:
            key: bytes = cipher.decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], self._wrapped_for(person_id)
            )
        except InvalidTag:
            raise Unavailable(
                f"the key of person {person_id} can't be unwrapped with person-wrap-{version}: it was changed, or this host "
                "has other secrets than the one that wrote it"
            ) from None
        return key
