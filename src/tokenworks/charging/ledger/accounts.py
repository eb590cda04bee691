"""Accounts and their buckets: opened, sold into, capped, paused, taken back."""

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
    """Accounts, and the buckets that are sold into them. The only writer of balances is this room."""

    def open_account(self) -> UUID:
        account_id = uuid7()
        account_store.add_account(self._connection, account_id)
        return account_id

    def account_state(self, account_id: UUID) -> str | None:
        return account_store.account_state(self._connection, account_id)

    def set_frozen(self, account_id: UUID, *, frozen: bool) -> None:
        """Nothing more is granted to a frozen account, and hosts give back what nobody holds. Raises `AccountNotFound`."""
        if not account_store.set_account_state(self._connection, account_id, "frozen" if frozen else "open"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def close_account(self, account_id: UUID) -> None:
        """Nothing is granted of it any more, and its keys are unknown. Raises `AccountNotFound`."""
        if not account_store.set_account_state(self._connection, account_id, "closed"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def tell_account(self, account_id: UUID) -> None:
        """Hosts look at this account again. In the caller's transaction."""
        store.tell_account(self._connection, account_id)

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
        """So much in any so many seconds, beside what the product's cycles bring. In the caller's transaction."""
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
        """Whether the account has a plan that is counted in prompts."""
        return bucket_store.has_unit(self._connection, account_id, "prompt", self._clock.now())

    def add_cap(self, account_id: UUID, cap_tokens: int) -> UUID:
        """A cap is a bucket that counts tokens beside the balance, so it holds under concurrency as the balance does."""
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
        store.tell_account(self._connection, account_id)
        return bucket_id

    def cap_bucket(
        self,
        account_id: UUID,
        cap_of: UUID,
        valid_from: datetime,
        valid_until: datetime | None,
        cap_tokens: int,
    ) -> UUID:
        """The bucket of a member's cap in the period that begins at `valid_from`; made when it is first asked for."""
        return cap_store.cap_bucket(
            self._connection, account_id, cap_of, valid_from, valid_until, cap_tokens * PER_UNIT, CAP_RATE
        )

    def used_of_caps(self, account_id: UUID, now: datetime) -> dict[UUID, int]:
        """What is used of each member's cap in its period of now, settled, in thousandths of a token."""
        return cap_store.used_of_caps(self._connection, account_id, now)

    def set_paused(self, account_id: UUID, product_id: UUID, *, paused: bool) -> None:
        """Nothing more is granted of a suspended product's buckets; what is there stays. In the caller's transaction."""
        bucket_store.set_paused(self._connection, account_id, product_id, paused=paused)
        store.tell_account(self._connection, account_id)

    def withdraw_product(self, account_id: UUID, product_id: UUID, reason: str) -> list[UUID]:
        """Take a product's unused quantity back; returns buckets whose granted part follows when their grants close."""
        return closing_store.start_closing(
            self._connection, account_id, product_id, reason, self._clock.now()
        )

    def withdraw_charge(self, account_id: UUID, product_id: UUID, charge_id: UUID | None) -> list[UUID]:
        """As `withdraw_product`, of the balances that one charge brought; None: of those that cost nothing."""
        return closing_store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), charge_id=charge_id,
            uncharged=charge_id is None, kind="balance",
        )  # fmt: skip

    def withdraw_windows(self, account_id: UUID, product_id: UUID) -> None:
        """A product's windows end: other ones come."""
        closing_store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), kind="window"
        )

    def expire_due(self) -> int:
        """Expire what is past its validity. Returns how many buckets."""
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

    def free_of(self, account_id: UUID, product_id: UUID) -> int:
        """What no host has of a product's buckets that can be spent now, in thousandths of their unit."""
        return bucket_store.free_of(self._connection, account_id, product_id, self._clock.now())

    def account_of_bucket(self, bucket_id: UUID) -> UUID | None:
        return whose_store.of_bucket(self._connection, bucket_id)

    def database_now(self) -> datetime:
        """The database's own time."""
        return store.database_now(self._connection)
