"""Who has which version of an offering, and moving them to the one that is on sale: with their next cycle, and told before.

What was sold keeps its version until its subscriber, or such a move, changes it; nothing that is paid for is touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
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
    """How many live products have a version, since when, and how many of them get another one with their next cycle."""

    offering_id: str
    offering_version: str
    on_sale: bool
    products: int
    moving: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class SoldProduct:
    """A live product of a version, and whose it is."""

    product_id: UUID
    subscriber_id: UUID
    state: str
    cycle_end: datetime | None
    next_version: str | None


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a move did. `too_soon`: their cycle ends before the notice would be over: they move the next time it is run.
    `left_alone`: they end with their cycle, don't renew, or change to something else.
    """

    offering_id: str
    offering_version: str
    moved: int
    too_soon: int
    left_alone: int


class Moves:
    """On one connection."""

    def __init__(
        self, connection: Connection, offerings: Offerings, clock: Clock, vault: PersonVault
    ) -> None:
        self._vault = vault
        self._connection = connection
        self._offerings = offerings
        self._clock = clock

    def sold(self, offering_id: str | None = None) -> list[SoldVersion]:
        """Versions that live products have, by offering, the oldest first."""
        current = {sold.offering_version for sold in self._offerings.all()}
        return [
            SoldVersion(id_, version, version in current, products, moving, first, last)
            for id_, version, products, moving, first, last in product_store.versions_sold(
                self._connection, offering_id
            )
        ]

    def holders(self, offering_version: str, limit: int = HOLDERS_MAX) -> list[SoldProduct]:
        """Who has a version, the oldest product first."""
        rows = product_store.holders(self._connection, offering_version, UUID(int=0), min(limit, HOLDERS_MAX))
        return [SoldProduct(*row) for row in rows]

    def move(self, offering_id: str, *, notice_days: int, from_version: str | None = None) -> MoveResult:
        """Every live product of an offering (of one version of it) goes on with the version on sale, with its next cycle that
        begins after the notice. Each is a transaction of its own, with the notice to its subscriber; what is moved already
        stays so. Raises `OfferingNotFound`, `OfferingNotActive`, `Invalid`.
        """
        if not 0 <= notice_days <= NOTICE_DAYS_MAX:
            raise Invalid(f"a notice is of 0 to {NOTICE_DAYS_MAX} days")
        now = self._clock.now()
        target = self._offerings.on_sale(offering_id, now)
        if target.offering.kind in {"pay_as_you_go", "trial"} or target.offering.cycle == "once":
            raise Invalid(f"{offering_id} does not renew: who has it keeps it")
        moved = too_soon = left_alone = 0
        for version in [s.offering_version for s in self.sold(offering_id)]:
            if version == target.offering_version or from_version not in {None, version}:
                continue
            self._check_alike(version, target)
            for holder in self._all(version):
                if holder.next_version == target.offering_version:
                    continue
                with self._connection.transaction():
                    product, subscriber = self._locked(holder)
                    if not self._follows(product, version):
                        left_alone += 1
                    elif product.cycle_end is None or product.cycle_end < now + timedelta(days=notice_days):
                        too_soon += 1
                    else:
                        self._set(subscriber, product, target, now)
                        moved += 1
        return MoveResult(offering_id, target.offering_version, moved, too_soon, left_alone)

    def _check_alike(self, version: str, target: SoldOffering) -> None:
        before = self._offerings.sold(version).offering
        after = target.offering
        if (before.kind, before.cycle, before.parts) != (after.kind, after.cycle, after.parts):
            raise Invalid(
                f"{after.id} has another kind, cycle or parts at {version}: such products are ordered anew"
            )

    def _all(self, version: str) -> Iterator[SoldProduct]:
        after: UUID | None = UUID(int=0)
        while after is not None:
            rows = product_store.holders(self._connection, version, after, MOVE_BATCH)
            for row in rows:
                yield SoldProduct(*row)
            after = rows[-1][0] if len(rows) == MOVE_BATCH else None

    def _locked(self, holder: SoldProduct) -> tuple[Product, Subscriber]:
        subscriber = people_store.lock_subscriber(self._vault, holder.subscriber_id)
        found = product_store.lock_product(self._connection, holder.product_id)
        assert subscriber is not None and found is not None
        return found[0], subscriber

    def _follows(self, product: Product, version: str) -> bool:
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
        content: dict[str, Any] = {
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
