"""The person vault: personal texts are encrypted under a key of the person, which is wrapped by a key outside the database.

A person is a subscriber, or a member who is not the owner of the account; the id of that row is the person's id. The cipher is
AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits. The associated data name the column, the row and the person, so a
ciphertext that is moved to another column, row or person does not decrypt. Destroying the wrapped key makes all ciphertexts of the
person unreadable, in every copy that does not include the key. A backup that includes the key must be deleted.
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
# The person id of the installation's own key, which encrypts what concerns no person in particular.
NO_PERSON: Final = UUID(int=0)


class PersonKey:
    """The unwrapped key of one person, in memory while it is used."""

    __slots__ = ("_cipher", "person_id")

    def __init__(self, person_id: UUID, key: bytes) -> None:
        self.person_id = person_id
        self._cipher = AESGCM(key)

    def _bound_to(self, place: str, row_id: UUID) -> bytes:
        return b"\0".join((b"tokenworks", place.encode(), row_id.bytes, self.person_id.bytes))

    def seal(self, place: str, row_id: UUID, text: str) -> bytes:
        """Encrypt a personal text. `place` names the column, such as `subscriber.phone`."""
        plain = text.encode()
        assert len(plain) <= TEXT_BYTES_MAX, "a personal text is bounded where it is read"
        return self.seal_bytes(place, row_id, plain)

    def seal_bytes(self, place: str, row_id: UUID, content: bytes) -> bytes:
        """Encrypt bytes that name a person, such as an answer or a message. The caller limits their length."""
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._cipher.encrypt(nonce, content, self._bound_to(place, row_id))

    def open(self, place: str, row_id: UUID, sealed: bytes) -> str:
        """Decrypt a personal text. Raises `Unavailable` if it was not sealed for this column, row and person."""
        return self.open_bytes(place, row_id, sealed).decode()

    def open_bytes(self, place: str, row_id: UUID, sealed: bytes) -> bytes:
        """Decrypt bytes. Raises `Unavailable` as `open` does."""
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
    """The person keys, on one connection. The encrypted texts are in the tables of the rooms that own them."""

    def __init__(self, connection: Connection, secrets: VaultSecrets) -> None:
        self.connection = connection
        self._secrets = secrets
        self._checked = False
        self.lookup = Lookup(secrets.lookup)

    def add(self, person_id: UUID) -> PersonKey:
        """Make the key of a new person, in the caller's transaction."""
        key, version = AESGCM.generate_key(PERSON_KEY_BYTES * 8), self._wraps_with()
        added = store.add_key(self.connection, person_id, self._wrap(person_id, key, version), version)
        assert added, f"person {person_id} has a key already"
        return PersonKey(person_id, key)

    def add_many(self, person_ids: Sequence[UUID]) -> dict[UUID, PersonKey]:
        """Make the keys of several new persons, in the caller's transaction."""
        version, keys = self._wraps_with(), {}
        rows = []
        for person_id in person_ids:
            key = AESGCM.generate_key(PERSON_KEY_BYTES * 8)
            keys[person_id] = PersonKey(person_id, key)
            rows.append((person_id, self._wrap(person_id, key, version), version))
        store.add_keys(self.connection, rows)
        return keys

    def key(self, person_id: UUID) -> PersonKey | None:
        """The key of a person; None if the person is erased or unknown."""
        return self.keys([person_id]).get(person_id)

    def ensure(self, person_id: UUID) -> PersonKey | None:
        """The key of a person, made if there is none yet; None if it was destroyed."""
        if person_id not in store.states(self.connection, [person_id]):
            key, version = AESGCM.generate_key(PERSON_KEY_BYTES * 8), self._wraps_with()
            # If another connection has inserted a key meanwhile, that key is used.
            store.add_key(self.connection, person_id, self._wrap(person_id, key, version), version)
        return self.key(person_id)

    def keys(self, person_ids: Iterable[UUID]) -> dict[UUID, PersonKey]:
        """The keys of these persons by id, without erased ones."""
        wanted = list(dict.fromkeys(person_ids))
        if not wanted:
            return {}
        return {
            person_id: PersonKey(person_id, self._unwrap(person_id, wrapped, version))
            for person_id, wrapped, version in store.wrapped_keys(self.connection, wanted)
        }

    def own(self) -> PersonKey:
        """The installation's own key, for what concerns no person, or an erased person."""
        key = self.ensure(NO_PERSON)
        assert key is not None, "the installation's own key is never destroyed"
        return key

    def open(self, person_id: UUID, place: str, row_id: UUID, sealed: bytes | None) -> str | None:
        """Decrypt one text of a person; None if there is no text or the person is erased."""
        key = None if sealed is None else self.key(person_id)
        return None if key is None or sealed is None else key.open(place, row_id, sealed)

    def forget(self, person_id: UUID) -> None:
        """Delete a key under which nothing is stored, in the transaction that made it."""
        store.delete_key(self.connection, person_id)

    def destroy(self, person_ids: Sequence[UUID]) -> int:
        """Erase persons: destroy their keys, so that nothing encrypted under them can be read. Returns how many keys existed."""
        return store.destroy(self.connection, list(person_ids))

    def is_erased(self, person_id: UUID) -> bool:
        """True if the person's key was destroyed. A member without a key of its own, such as the owner, is erased with the account."""
        return store.states(self.connection, [person_id]).get(person_id) is False

    # The secrets.

    def check_secrets(self) -> None:
        """Compare this host's secrets with the fingerprints in the database, which are stored once the first person exists.

        Raises `Unavailable`.
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
            # A wrapping key that unwraps a stored key is the right one, so its fingerprint can be stored.
            for version in used:
                person_id, wrapped = store.any_of_version(self.connection, version)
                self._unwrap(person_id, wrapped, version)
            for name, fingerprint in mine.items():
                store.add_fingerprint(self.connection, name, fingerprint)

    def _wraps_with(self) -> int:
        """The version that wraps the key of a new person: the newest one in use. A newer version is in use after its `rewrap`, when every
        host has it.

        Raises `Unavailable` if this host's secrets differ from those that the database was written with. The check at the host's start
        could not see that if no person existed then.
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
        """Raises `Conflict` if one of these hosts has not loaded the newest version, and so could not unwrap keys."""
        refuse_where_missing(hosts, f"{WRAP}{self._secrets.version}", self.is_newest_on)

    def rewrap(self) -> int:
        """Wrap a batch of keys of older versions with the newest version. Returns how many; 0 if none is left."""
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
        """The associated data of a wrapped key: the person and the lookup key. So a host with another lookup key fails to unwrap,
        instead of silently finding no person.
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
