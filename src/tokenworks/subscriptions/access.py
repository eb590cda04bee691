"""The keys of an account and its members: issuing, listing and revoking them, by one rule for API, pages and commands."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import Ledger
from tokenworks.kernel import Clock, Invalid, NotFound
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Subscriber
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import ApiKeyInfo, Keys, PersonVault

# Live keys of a member and of an account at one time. Revoked and expired keys do not count.
MEMBER_KEYS_LIVE_MAX: Final = 100
ACCOUNT_KEYS_LIVE_MAX: Final = 10_000
KEY_DAYS_MAX: Final = 36_500
# The end of a key by which its holder knows it, as in lists of keys.
HINT_CHARS: Final = 4


class Access:
    """Issues, lists and revokes keys, on one connection."""

    def __init__(
        self,
        connection: Connection,
        vault: PersonVault,
        keys: Keys,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._keys = keys
        self._ledger = ledger
        self._clock = clock

    def issue_key(
        self,
        subscriber: Subscriber,
        member_id: UUID | None,
        name: str,
        *,
        models: Sequence[str] | None = None,
        cap_tokens: int | None = None,
        expires_in_days: int | None = None,
        origins: Sequence[str] | None = None,
        fallbacks: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        imported_sha256: str | None = None,
        reissue: bool = False,
    ) -> tuple[UUID, str]:
        """Issue a key for a member (None: for the owner), with the bucket of its cap, in one transaction. Return the key's id and
        its text, which is not kept and can't be shown again. `imported_sha256`, `reissue`: see `Keys.issue`.

        Raises `Invalid`, also if the member or the account has the maximum of live keys.
        """
        if expires_in_days is not None and not 0 < expires_in_days <= KEY_DAYS_MAX:
            raise Invalid(f"a key is valid for 1 to {KEY_DAYS_MAX} days")
        with self._connection.transaction():
            # The lock makes the second of two concurrent requests count the first one's key.
            people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if member_id is None:
                member_id = people_store.owner_of(self._connection, subscriber.subscriber_id)
            now = self._clock.now()
            member_keys, account_keys = self._keys.count_live(subscriber.account_id, member_id, now)
            if member_keys >= MEMBER_KEYS_LIVE_MAX:
                raise Invalid(
                    f"a member has at most {MEMBER_KEYS_LIVE_MAX} keys: stop a key that is not used any more"
                )
            if account_keys >= ACCOUNT_KEYS_LIVE_MAX:
                raise Invalid(f"an account has at most {ACCOUNT_KEYS_LIVE_MAX} keys: stop keys that are not used any more")  # fmt: skip
            cap_id = None if cap_tokens is None else self._ledger.add_cap(subscriber.account_id, cap_tokens)
            issued = self._keys.issue(
                account_id=subscriber.account_id,
                member_id=member_id,
                name=name,
                models=models,
                cap_bucket_id=cap_id,
                cap_tokens=cap_tokens,
                expires_at=expires_at if expires_in_days is None else now + timedelta(days=expires_in_days),
                origins=origins,
                fallbacks=fallbacks,
                imported_sha256=imported_sha256,
                reissue=reissue,
            )
            if imported_sha256 is None:
                self._tell_made(subscriber, member_id, *issued, now)
        return issued

    def _tell_made(
        self, subscriber: Subscriber, member_id: UUID, key_id: UUID, text: str, now: datetime
    ) -> None:
        """Tell the key's holder of it: another person may have made it with the holder's session."""
        is_owner = member_id == people_store.owner_of(self._connection, subscriber.subscriber_id)
        person_id = subscriber.subscriber_id if is_owner else member_id
        notice_store.add_notification(
            self._connection, subscriber.subscriber_id, "key.made", str(key_id),
            {"person_id": str(person_id), "hint": text[-HINT_CHARS:]}, now,
        )  # fmt: skip

    def keys(
        self,
        subscriber: Subscriber,
        member_id: UUID | None = None,
        *,
        after: UUID | None = None,
        limit: int | None = None,
    ) -> list[ApiKeyInfo]:
        """The account's keys with their caps, oldest first: all of them, or at most `limit` after the key `after`. With
        `member_id`: only this member's keys that are not revoked.
        """
        account_id = subscriber.account_id
        caps = {b.bucket_id: b.total for b in self._ledger.buckets(account_id) if b.kind == "cap"}
        found = self._keys.of_account(account_id, caps, after, limit)
        if member_id is None:
            return found
        member_key_ids = self._keys.of_member(member_id)
        return [key for key in found if key.key_id in member_key_ids]

    def set_fallbacks(
        self,
        subscriber: Subscriber,
        key_id: UUID,
        fallbacks: Sequence[str] | None,
        member_id: UUID | None = None,
    ) -> None:
        """Set the models to which the requests of a key of the account (with `member_id`: of this member) fall back: None for those of
        the plan, an empty list for none. Raises `NotFound`, `Invalid`.
        """
        self.check_key(subscriber, key_id, member_id)
        self._keys.set_fallbacks(key_id, fallbacks)

    def set_response_cache(
        self, subscriber: Subscriber, key_id: UUID, *, on: bool, member_id: UUID | None = None
    ) -> None:
        """Have the requests of a key of the account (with `member_id`: of this member) wish the response cache or not. Raises `NotFound`."""
        self.check_key(subscriber, key_id, member_id)
        self._keys.set_response_cache(key_id, on=on)

    def set_content_log(
        self, subscriber: Subscriber, key_id: UUID, *, on: bool, member_id: UUID | None = None
    ) -> None:
        """Turn the log of requests and answers of a key of the account (with `member_id`: of this member) on or off. Raises `NotFound`."""
        self.check_key(subscriber, key_id, member_id)
        self._keys.set_content_log(key_id, on=on)

    def revoke_key(self, subscriber: Subscriber, key_id: UUID, member_id: UUID | None = None) -> bool:
        """Revoke a key of the account (with `member_id`: of this member) on all hosts. Return False if it was revoked before.
        Raises `NotFound`.
        """
        self.check_key(subscriber, key_id, member_id)
        return self._keys.revoke(key_id)

    def check_key(self, subscriber: Subscriber, key_id: UUID, member_id: UUID | None = None) -> None:
        """Raises `NotFound` unless the key is of the account (with `member_id`: one of this member's that is not revoked)."""
        if key_id not in {key.key_id for key in self.keys(subscriber, member_id)}:
            raise NotFound("there is no such key")

    def check_past_key(self, subscriber: Subscriber, key_id: UUID, member_id: UUID | None = None) -> None:
        """The same for a key that may be revoked."""
        known = self._keys.of_account(subscriber.account_id, {})
        if not any(key.key_id == key_id for key in known) or (
            member_id is not None and key_id not in self._keys.all_of_member(member_id)
        ):
            raise NotFound("there is no such key")
