"""Accounts and their buckets: opening an account, and adding, capping, pausing and withdrawing buckets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.catalog import BucketSpec
from tokenworks.charging.errors import (
    AccountNotFound,
)
from tokenworks.charging.ledger import (
    account_store,
    bucket_store,
    cap_store,
    closing_store,
    mark_store,
    store,
    whose_store,
)
from tokenworks.charging.ledger.model import Bucket
from tokenworks.charging.ledger.part import LedgerPart
from tokenworks.charging.model import CAP_RATE, PER_UNIT
from tokenworks.kernel import Invalid, uuid7
from tokenworks.kernel.units import QUANTITY_MAX

EXPIRE_BATCH: Final = 500


class Accounts(LedgerPart):
    """Accounts and their buckets. `charging` is the only room that writes balances."""

    def open_account(self) -> UUID:
        account_id = uuid7()
        account_store.add_account(self._connection, account_id)
        return account_id

    def account_state(self, account_id: UUID) -> str | None:
        return account_store.account_state(self._connection, account_id)

    def set_frozen(self, account_id: UUID, *, frozen: bool) -> None:
        """Freeze or unfreeze an account. A frozen account gets no grants, and hosts return what no request holds.

        Raises `AccountNotFound`.
        """
        if not account_store.set_account_state(self._connection, account_id, "frozen" if frozen else "open"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def close_account(self, account_id: UUID) -> None:
        """Close an account: it gets no grants, and its keys are no longer found. Raises `AccountNotFound`."""
        if not account_store.set_account_state(self._connection, account_id, "closed"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def notify_hosts(self, account_id: UUID) -> None:
        """Make the hosts read this account again. Runs in the caller's transaction."""
        store.notify_hosts(self._connection, account_id)

    def open_windows(
        self,
        *,
        account_id: UUID,
        product_id: UUID,
        specs: Sequence[BucketSpec],
        rate_version: str,
        valid_from: datetime,
        valid_until: datetime | None,
    ) -> None:
        """Add the windows of a product: each limits use to a quantity in any period of `window_s` seconds, in addition to the
        balances that the product's cycles bring. Runs in the caller's transaction.
        """
        for spec in specs:
            assert spec.window_s is not None
            bucket_store.add_bucket(
                self._connection,
                account_id=account_id,
                product_id=product_id,
                kind="window",
                unit=spec.unit,
                total=spec.quantity * PER_UNIT,
                priority=spec.priority,
                valid_from=valid_from,
                valid_until=valid_until,
                model_classes=spec.model_classes,
                rate_version=rate_version,
                window_s=spec.window_s,
            )

    def counts_prompts(self, account_id: UUID) -> bool:
        """True if the account has a plan that is counted in prompts."""
        return bucket_store.has_unit(self._connection, account_id, "prompt", self._clock.now())

    def add_cap(self, account_id: UUID, cap_tokens: int) -> UUID:
        """Add a cap. A cap is a bucket that counts tokens in addition to the balance, so concurrent requests cannot exceed it."""
        if not 0 < cap_tokens <= QUANTITY_MAX // PER_UNIT // 1000:
            raise Invalid("a cap is a positive number of tokens")
        bucket_id = bucket_store.add_bucket(
            self._connection,
            account_id=account_id,
            product_id=None,
            kind="cap",
            unit="token",
            total=cap_tokens * PER_UNIT,
            priority=0,
            valid_from=self._clock.now(),
            valid_until=None,
            model_classes=["*"],
            rate_version=CAP_RATE,
        )
        store.notify_hosts(self._connection, account_id)
        return bucket_id

    def cap_bucket(
        self,
        account_id: UUID,
        cap_of: UUID,
        valid_from: datetime,
        valid_until: datetime | None,
        cap_tokens: int,
    ) -> UUID:
        """The bucket of a member's cap in the period that begins at `valid_from`. The first call for a period makes the bucket."""
        return cap_store.cap_bucket(
            self._connection, account_id, cap_of, valid_from, valid_until, cap_tokens * PER_UNIT, CAP_RATE
        )

    def used_of_caps(self, account_id: UUID, now: datetime) -> dict[UUID, int]:
        """The settled use of each member's cap in its current period, in thousandths of a token."""
        return cap_store.used_of_caps(self._connection, account_id, now)

    def set_paused(self, account_id: UUID, product_id: UUID, *, paused: bool) -> None:
        """Pause or resume a product's buckets. A paused bucket keeps its balance and gets no grants.

        Runs in the caller's transaction.
        """
        bucket_store.set_paused(self._connection, account_id, product_id, paused=paused)
        store.notify_hosts(self._connection, account_id)

    def withdraw_product(self, account_id: UUID, product_id: UUID, reason: str) -> list[UUID]:
        """Withdraw a product's unused quantity. Returns the buckets that still have grants: their rest is withdrawn when the
        grants close.
        """
        return closing_store.start_closing(
            self._connection, account_id, product_id, reason, self._clock.now()
        )

    def withdraw_charge(self, account_id: UUID, product_id: UUID, charge_id: UUID | None) -> list[UUID]:
        """As `withdraw_product`, for the balances of one charge, or (None) for the balances that cost nothing."""
        return closing_store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), charge_id=charge_id,
            uncharged=charge_id is None, kind="balance",
        )  # fmt: skip

    def withdraw_windows(self, account_id: UUID, product_id: UUID) -> None:
        """End a product's windows, before the caller opens others."""
        closing_store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), kind="window"
        )

    def expire_due(self) -> int:
        """Expire the buckets that are past their validity. Returns how many."""
        total = 0
        while done := closing_store.expire_due(self._connection, self._clock.now(), EXPIRE_BATCH):
            total += done
            if done < EXPIRE_BATCH:
                break
        return total

    def buckets(self, account_id: UUID) -> list[Bucket]:
        """Raises `AccountNotFound`."""
        if account_store.account_state(self._connection, account_id) is None:
            raise AccountNotFound(f"there is no account {account_id}")
        return bucket_store.buckets(self._connection, account_id)

    def take_marks(self, limit: int) -> list[tuple[UUID, UUID, int]]:
        """The oldest marks, deleted in the caller's transaction: (account, bucket, percent) of buckets of products whose settled use has
        passed 80 % or 100 % of their total.
        """
        return mark_store.take(self._connection, limit)

    def free_of(self, account_id: UUID, product_id: UUID) -> int:
        """The quantity of a product's buckets that can be spent now and is granted to no host, in thousandths of their unit."""
        return bucket_store.free_of(self._connection, account_id, product_id, self._clock.now())

    def account_of_bucket(self, bucket_id: UUID) -> UUID | None:
        return whose_store.of_bucket(self._connection, bucket_id)

    def database_now(self) -> datetime:
        """The current time of the database's clock."""
        return store.database_now(self._connection)
