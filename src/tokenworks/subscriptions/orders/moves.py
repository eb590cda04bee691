"""Moving live products from an older version of their offering to the version on sale: with their next cycle, after a notice.

A product keeps the version that was sold until its subscriber, or such a move, changes it. A cycle that is paid for is not
changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offerings, SoldOffering
from tokenworks.kernel import Clock, Invalid
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import product_store
from tokenworks.subscriptions.orders.sales import price_for
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault

MOVE_BATCH: Final = 500
HOLDERS_MAX: Final = 1000
NOTICE_DAYS_MAX: Final = 366


@dataclass(frozen=True, slots=True)
class SoldVersion:
    """A version that live products have: how many, since when, and how many of them get another version with their next cycle
    (`moving`).
    """

    offering_id: str
    offering_version: str
    on_sale: bool
    products: int
    moving: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class SoldProduct:
    """A live product of a version, with its subscriber."""

    product_id: UUID
    subscriber_id: UUID
    state: str
    cycle_end: datetime | None
    next_version: str | None


@dataclass(frozen=True, slots=True)
class MoveResult:
    """Numbers of products. `too_soon`: the cycle ends before the notice would be over; the next run moves the product.
    `left_alone`: the product ends with its cycle, does not renew, or has another change ahead.
    """

    offering_id: str
    offering_version: str
    moved: int
    too_soon: int
    left_alone: int


class Moves:
    """Lists and moves the versions of live products, on one connection."""

    def __init__(
        self, connection: Connection, offerings: Offerings, clock: Clock, vault: PersonVault
    ) -> None:
        self._vault = vault
        self._connection = connection
        self._offerings = offerings
        self._clock = clock

    def sold(self, offering_id: str | None = None) -> list[SoldVersion]:
        """The versions that live products have, by offering, the oldest first."""
        current = {sold.offering_version for sold in self._offerings.all()}
        return [
            SoldVersion(id_, version, version in current, products, moving, first, last)
            for id_, version, products, moving, first, last in product_store.versions_sold(
                self._connection, offering_id
            )
        ]

    def holders(self, offering_version: str, limit: int = HOLDERS_MAX) -> list[SoldProduct]:
        """The live products of a version, the oldest first, at most `HOLDERS_MAX`."""
        rows = product_store.holders(self._connection, offering_version, UUID(int=0), min(limit, HOLDERS_MAX))
        return [SoldProduct(*row) for row in rows]

    def move(self, offering_id: str, *, notice_days: int, from_version: str | None = None) -> MoveResult:
        """Have every live product of an offering (or of one version of it) continue with the version on sale, from its next cycle
        that begins after the notice. Each product is one transaction, with the notice to its subscriber; a product that was moved
        before stays as it is. Raises `OfferingNotFound`, `OfferingNotActive`, `Invalid`.
        """
        if not 0 <= notice_days <= NOTICE_DAYS_MAX:
            raise Invalid(f"a notice period is 0 to {NOTICE_DAYS_MAX} days")
        now = self._clock.now()
        target = self._offerings.on_sale(offering_id, now)
        if target.offering.kind in {"pay_as_you_go", "trial"} or target.offering.cycle == "once":
            raise Invalid(f"{offering_id} does not renew: its products keep their version")
        moved = too_soon = left_alone = 0
        for version in [s.offering_version for s in self.sold(offering_id)]:
            if version == target.offering_version or from_version not in {None, version}:
                continue
            self._check_same_kind(version, target)
            for sold_product in self._all(version):
                if sold_product.next_version == target.offering_version:
                    continue
                with self._connection.transaction():
                    product, subscriber = self._lock(sold_product)
                    if not self._can_move(product, version):
                        left_alone += 1
                    elif product.cycle_end is None or product.cycle_end < now + timedelta(days=notice_days):
                        too_soon += 1
                    else:
                        self._set(subscriber, product, target, now)
                        moved += 1
        return MoveResult(offering_id, target.offering_version, moved, too_soon, left_alone)

    def _check_same_kind(self, version: str, target: SoldOffering) -> None:
        before = self._offerings.sold(version).offering
        after = target.offering
        if (before.kind, before.cycle, before.parts) != (after.kind, after.cycle, after.parts):
            raise Invalid(
                f"{after.id} has another kind, cycle or parts at {version}: such products have to be ordered again"
            )

    def _all(self, version: str) -> Iterator[SoldProduct]:
        after: UUID | None = UUID(int=0)
        while after is not None:
            rows = product_store.holders(self._connection, version, after, MOVE_BATCH)
            for row in rows:
                yield SoldProduct(*row)
            after = rows[-1][0] if len(rows) == MOVE_BATCH else None

    def _lock(self, sold_product: SoldProduct) -> tuple[Product, Subscriber]:
        subscriber = people_store.lock_subscriber(self._vault, sold_product.subscriber_id)
        found = product_store.lock_product(self._connection, sold_product.product_id)
        assert subscriber is not None and found is not None
        return found[0], subscriber

    def _can_move(self, product: Product, version: str) -> bool:
        """True if the product still has the version, and renews with it."""
        return (
            product.state in {"active", "suspended"}
            and product.offering_version == version
            and product.renews
            and product.parent_id is None
            and product.next_version is None
            and not product.ends_after_cycle
        )

    def _set(self, subscriber: Subscriber, product: Product, target: SoldOffering, now: datetime) -> None:
        product_store.set_product(self._connection, product.product_id, next_version=target.offering_version)
        before, after = self._offerings.sold(product.offering_version).offering, target.offering
        assert product.cycle_end is not None
        content: dict[str, object] = {
            "product_id": str(product.product_id),
            "offering": after.id,
            "name": after.name,
            "name_zh": after.name_zh,
            "from_version": product.offering_version,
            "to_version": target.offering_version,
            "from_price_nano": price_for(self._connection, subscriber, before, product.cycle_end),
            "to_price_nano": price_for(self._connection, subscriber, after, product.cycle_end),
            "at": product.cycle_end.isoformat(),
        }
        ref = f"{product.product_id}:{target.offering_version}"
        notice_store.add_notification(
            self._connection, subscriber.subscriber_id, "plan.move", ref, content, now
        )
