"""What an order asks before it does anything."""

from typing import Final

from tokenworks.catalog import Offering
from tokenworks.kernel import Invalid
from tokenworks.subscriptions.errors import ProductEnded
from tokenworks.subscriptions.model import Product

LIVE: Final = frozenset({"active", "suspended", "pendingActive"})


def check_live(product: Product) -> None:
    """Raises `ProductEnded`."""
    if product.state not in LIVE:
        raise ProductEnded(f"product {product.product_id} is {product.state} already")


def check_delivery(offering: Offering, delivery: str | None) -> None:
    if delivery is not None and offering.kind != "bundle" and delivery not in offering.deliveries:
        ways = ", ".join(offering.deliveries) or "nothing that is delivered so"
        raise Invalid(f"{offering.id} is delivered as: {ways}")
