"""API keys: issuing, finding, listing and revoking them."""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, Invalid, check_line, check_names, uuid7
from tokenworks.trust.errors import KeyNotFound
from tokenworks.trust.keys import store
from tokenworks.trust.keys.pepper import issuing
from tokenworks.trust.model import (
    FOREIGN_PREFIX,
    ApiKey,
    ApiKeyInfo,
    foreign_mac,
    foreign_sha256,
    format_key,
    is_foreign_key,
    is_key,
    key_mac,
)

KEY_MODELS_MAX: Final = 200
KEY_ORIGINS_MAX: Final = 50
KEY_FALLBACKS_MAX: Final = 8
_ORIGIN = re.compile(r"https?://[a-z0-9.-]{1,253}(?::[0-9]{1,5})?")
_ENVIRONMENT = re.compile(r"[a-z0-9]{1,12}")


class Keys:
    """API keys, on one database connection. `peppers` by version; the issuing one makes the MACs of new keys."""

    def __init__(
        self, connection: Connection, peppers: dict[int, bytes], clock: Clock, environment: str
    ) -> None:
        if not _ENVIRONMENT.fullmatch(environment):
            raise Invalid(f"an environment is up to 12 small letters and digits, not {environment!r}")
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._environment = environment

    def issue(
        self,
        *,
        account_id: UUID,
        member_id: UUID,
        name: str,
        models: Sequence[str] | None = None,
        cap_bucket_id: UUID | None = None,
        cap_tokens: int | None = None,
        expires_at: datetime | None = None,
        origins: Sequence[str] | None = None,
        fallbacks: Sequence[str] | None = None,
        imported_sha256: str | None = None,
        reissue: bool = False,
    ) -> tuple[UUID, str]:
        """Issue a key. Returns its id and its text, which cannot be read again. `cap_bucket_id` and `cap_tokens`: the bucket of the key's
        own cap and the size of the cap; both, or neither. `imported_sha256`: of its text in another system, which stays its text (what is
        returned is empty then) unless `reissue` gives it a new one.

        Raises `Invalid` if the name or a list is too long, or the expiry has passed.
        """
        assert (cap_bucket_id is None) == (cap_tokens is None), "a cap is a bucket of so many tokens"
        name = check_line(name, "a key's name")
        if models is not None:
            if not 0 < len(models) <= KEY_MODELS_MAX:
                raise Invalid(
                    f"a key's allowed models are 1 to {KEY_MODELS_MAX} names; leave them out to allow all"
                )
            models = check_names(models, "a key's allowed models", count_max=KEY_MODELS_MAX)
        if origins is not None:
            origins = [origin.strip().rstrip("/").lower() for origin in origins]
            if not 0 < len(origins) <= KEY_ORIGINS_MAX or not all(map(_ORIGIN.fullmatch, origins)):
                raise Invalid(f"a key's origins are 1 to {KEY_ORIGINS_MAX} such as https://app.example")
        fallbacks = checked_fallbacks(fallbacks)
        if expires_at is not None and expires_at <= self._clock.now():
            raise Invalid(f"a key can't expire in the past ({expires_at.isoformat()})")
        kept = imported_sha256 is not None and not reissue
        text = "" if kept else format_key(self._environment, secrets.randbits(178))
        version = issuing(self._peppers)
        pepper = self._peppers[version]
        imported_mac = None if imported_sha256 is None else foreign_mac(pepper, imported_sha256)
        key_id = uuid7()
        store.add_key(
            self._connection,
            key_id=key_id,
            account_id=account_id,
            member_id=member_id,
            mac=imported_mac if kept and imported_mac is not None else key_mac(pepper, text),
            pepper_version=version,
            hint=f"{FOREIGN_PREFIX}…" if kept else f"{text[: text.rindex('_') + 1]}…{text[-4:]}",
            name=name,
            models=models,
            cap_bucket_id=cap_bucket_id,
            cap_tokens=cap_tokens,
            expires_at=expires_at,
            origins=origins,
            fallbacks=fallbacks,
        )
        if imported_mac is not None:
            store.add_imported(self._connection, imported_mac, key_id, kept=kept)
        return key_id, text

    def imported(self, sha256_hex: str) -> UUID | None:
        """The key that was imported with this SHA-256 of its text in another system; None if there is none."""
        return store.imported(
            self._connection, [foreign_mac(pepper, sha256_hex) for pepper in self._peppers.values()]
        )

    def set_fallbacks(self, key_id: UUID, fallbacks: Sequence[str] | None) -> None:
        """Set the models to which a key's requests fall back, in order: None for those of the plan, an empty list for none. Raises
        `Invalid`, and `KeyNotFound` if the key is unknown or revoked.
        """
        with self._connection.transaction():
            if not store.set_fallbacks(self._connection, key_id, checked_fallbacks(fallbacks)):
                raise KeyNotFound(f"there is no live key {key_id}: `tokenworks key list` shows them")

    def set_content_log(self, key_id: UUID, *, on: bool) -> None:
        """Turn the log of a key's requests and answers on or off. Raises `KeyNotFound` if the key is unknown or revoked."""
        with self._connection.transaction():
            if not store.set_content_log(self._connection, key_id, on=on):
                raise KeyNotFound(f"there is no live key {key_id}: `tokenworks key list` shows them")

    def set_response_cache(self, key_id: UUID, *, on: bool) -> None:
        """Have a key's requests wish the response cache by themselves, or only by their header. Raises `KeyNotFound` if the key is unknown or
        revoked.
        """
        with self._connection.transaction():
            if not store.set_response_cache(self._connection, key_id, on=on):
                raise KeyNotFound(f"there is no live key {key_id}: `tokenworks key list` shows them")

    def logs_content(self, key_id: UUID) -> bool:
        """True if the key is not revoked and its requests and answers are logged."""
        info = store.key_info(self._connection, key_id)
        return info is not None and info.content_log and info.revoked_at is None

    def find(self, macs: Sequence[bytes]) -> dict[bytes, ApiKey]:
        """The live keys among these MACs."""
        return store.find_keys(self._connection, macs)

    def macs_of(self, text: str) -> list[bytes]:
        """The MACs of a key's text under each pepper; none for a text that is no key, ours or one of another system."""
        if is_foreign_key(text):
            return [foreign_mac(pepper, foreign_sha256(text)) for pepper in self._peppers.values()]
        return [key_mac(pepper, text) for pepper in self._peppers.values()] if is_key(text) else []

    def ended(self, macs: Sequence[bytes]) -> dict[bytes, str]:
        """Those keys among these MACs that are not live, and why: `revoked`, `expired`, or `closed` (the account)."""
        return store.ended_keys(self._connection, macs)

    def of_account(
        self, account_id: UUID, caps: dict[UUID, int], after: UUID | None = None, limit: int | None = None
    ) -> list[ApiKeyInfo]:
        """An account's keys, oldest first: all, or at most `limit` after the key `after`. `caps`: see `store.list_keys`."""
        return store.list_keys(self._connection, account_id, caps, after, limit)

    def count_live(self, account_id: UUID, member_id: UUID, now: datetime) -> tuple[int, int]:
        """How many keys are neither revoked nor expired: (of the member, of the account)."""
        return store.count_live_keys(self._connection, account_id, member_id, now)

    def count(self, account_id: UUID) -> int:
        """How many keys an account has, including revoked ones."""
        return store.count_keys(self._connection, account_id)

    def info(self, key_id: UUID) -> ApiKeyInfo | None:
        """One key as its owner sees it, without its cap."""
        return store.key_info(self._connection, key_id)

    def of_member(self, member_id: UUID) -> set[UUID]:
        """The ids of a member's live keys."""
        return store.live_keys_of(self._connection, member_id)

    def all_of_member(self, member_id: UUID) -> set[UUID]:
        """The ids of all keys of a member, including revoked and expired ones."""
        return store.keys_of_member(self._connection, member_id)

    def used(self, key_ids: Sequence[UUID]) -> None:
        """Store the time of the last use of these keys, to a minute."""
        store.store_last_use(self._connection, key_ids)

    def revoke(self, key_id: UUID) -> bool:
        """Revoke a key on all hosts. Returns False if it was revoked already. Raises `KeyNotFound`."""
        revoked = store.revoke(self._connection, key_id)
        if not revoked and not store.exists(self._connection, key_id):
            raise KeyNotFound(f"there is no key {key_id}: `tokenworks key list` shows them")
        return revoked

    def forget_names(self, account_id: UUID, member_ids: Sequence[UUID] = ()) -> None:
        """Erase the names of the keys of an erased subscriber's account and of its memberships: names are free text of the person."""
        store.forget_names(self._connection, account_id, list(member_ids))

    def forget_names_of_member(self, member_id: UUID) -> None:
        """Erase the names of the keys of an erased member."""
        store.forget_names_of_member(self._connection, member_id)


def checked_fallbacks(fallbacks: Sequence[str] | None) -> list[str] | None:
    """The names of models to fall back to, each once. Raises `Invalid`."""
    if fallbacks is None:
        return None
    return list(check_names(fallbacks, "the models to fall back to", count_max=KEY_FALLBACKS_MAX))
