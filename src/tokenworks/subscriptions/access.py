"""Who spends from an account by which key: issuing a key, listing keys, stopping one. Every door asks here."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import Ledger
from tokenworks.kernel import Clock, Invalid, NotFound
from tokenworks.subscriptions.model import Subscriber
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import ApiKeyInfo, Keys, PersonVault

# Live keys at a time, of a member and of an account. A revoked or an expired key makes room for another one.
MEMBER_KEYS_LIVE_MAX: Final = 100
ACCOUNT_KEYS_LIVE_MAX: Final = 10_000
KEY_DAYS_MAX: Final = 36_500


class Access:
    """On one connection, with the rooms that it uses."""

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
    ) -> tuple[UUID, str]:
        """A key of a member (None: of the owner), with the bucket of its cap, in one transaction: its id, and its text, which is
        shown this once.

        Raises `Invalid`, also where the member or the account has as many live keys as may be.
        """
        if expires_in_days is not None and not 0 < expires_in_days <= KEY_DAYS_MAX:
            raise Invalid(f"a key is valid for 1 to {KEY_DAYS_MAX} days")
        with self._connection.transaction():
            # Of two requests at once, the second one counts the first one's key.
            people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if member_id is None:
                member_id = people_store.owner_of(self._connection, subscriber.subscriber_id)
            now = self._clock.now()
            of_member, of_account = self._keys.count_live(subscriber.account_id, member_id, now)
            if of_member >= MEMBER_KEYS_LIVE_MAX:
                raise Invalid(
                    f"one has at most {MEMBER_KEYS_LIVE_MAX} keys: stop one that is not used any more"
                )
            if of_account >= ACCOUNT_KEYS_LIVE_MAX:
                raise Invalid(f"an account has at most {ACCOUNT_KEYS_LIVE_MAX} keys: stop some that are not used any more")  # fmt: skip
            cap = None if cap_tokens is None else self._ledger.add_cap(subscriber.account_id, cap_tokens)
            return self._keys.issue(
                account_id=subscriber.account_id,
                member_id=member_id,
                name=name,
                models=models,
                cap_bucket_id=cap,
                cap_tokens=cap_tokens,
                expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
                origins=origins,
            )

    def keys(
        self,
        subscriber: Subscriber,
        member_id: UUID | None = None,
        *,
        after: UUID | None = None,
        limit: int | None = None,
    ) -> list[ApiKeyInfo]:
        """The account's keys with their caps, oldest first: all, or at most `limit` after one. With `member_id`, of those the
        member's own that are not revoked.
        """
        account_id = subscriber.account_id
        caps = {b.bucket_id: b.total for b in self._ledger.buckets(account_id) if b.kind == "cap"}
        found = self._keys.of_account(account_id, caps, after, limit)
        if member_id is None:
            return found
        mine = self._keys.of_member(member_id)
        return [key for key in found if key.key_id in mine]

    def revoke_key(self, subscriber: Subscriber, key_id: UUID, member_id: UUID | None = None) -> bool:
        """Stop a key of the account (with `member_id`: of the member) everywhere. False where it was stopped already. Raises
        `NotFound` where it is none of these.
        """
        if key_id not in {key.key_id for key in self.keys(subscriber, member_id)}:
            raise NotFound("there is no such key")
        return self._keys.revoke(key_id)
