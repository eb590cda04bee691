"""What the operations on orders share: a connection, services of other rooms, and the order of locks."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offerings
from tokenworks.charging import Charges, FailedJobs, Ledger
from tokenworks.kernel import Clock
from tokenworks.subscriptions.errors import ProductNotFound
from tokenworks.subscriptions.model import Order, PrivacyRules, Product, Subscriber, check_idempotency_key
from tokenworks.subscriptions.orders import order_store, product_store
from tokenworks.subscriptions.orders.eligibility import check_live
from tokenworks.subscriptions.orders.sales import Sales
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault
from tokenworks.trust.identity.answers import KeyReused


@dataclass(frozen=True, slots=True)
class Context:
    """A connection with the services that the operations use."""

    connection: Connection
    vault: PersonVault
    rules: PrivacyRules
    offerings: Offerings
    ledger: Ledger
    charges: Charges
    clock: Clock
    sales: Sales
    failed: FailedJobs

    def lock(self, product_id: UUID) -> tuple[Product, Subscriber]:
        """Lock the subscriber, then the product: all operations lock in this order. Raises `ProductNotFound`."""
        subscriber_id = product_store.subscriber_of_product(self.connection, product_id)
        if subscriber_id is None:
            raise ProductNotFound(
                f"there is no product {product_id}: `tokenworks subscriber show` lists them"
            )
        subscriber = people_store.lock_subscriber(self.vault, subscriber_id)
        found = product_store.lock_product(self.connection, product_id)
        assert subscriber is not None and found is not None
        return found[0], subscriber

    def lock_live(self, product_id: UUID) -> tuple[Product, Subscriber]:
        """As `lock`. Raises `ProductEnded` as well, if the product is not live."""
        product, subscriber = self.lock(product_id)
        check_live(product)
        return product, subscriber

    def find_repeated(
        self,
        subscriber: Subscriber,
        product_id: UUID,
        idempotency_key: str | None,
        action: Literal["modify", "delete"],
        offering_id: str | None = None,
    ) -> Order | None:
        """The order that an earlier request with this idempotency key made, in whichever state its product is. Raises `KeyReused`
        if that was another order.
        """
        check_idempotency_key(idempotency_key)
        if idempotency_key is None:
            return None
        before = order_store.find_order(self.connection, subscriber.subscriber_id, idempotency_key)
        if before is not None and (
            before.action != action
            or before.product_id != product_id
            or offering_id not in {None, before.offering_id}
        ):
            raise KeyReused("the idempotency key was used for another order: take another one")
        return before
