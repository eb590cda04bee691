"""What can be delivered to whom, and what can still be changed."""

from collections.abc import Collection, Iterable
from typing import Final

from tokenworks.catalog import Offering
from tokenworks.kernel import Invalid
from tokenworks.subscriptions.errors import NotEligible, ProductEnded
from tokenworks.subscriptions.model import Product, Subscriber

# The port whose deliveries are done to a broadband account.
BROADBAND_PORT: Final = "broadband"
# States of a product that is there, or will be.
LIVE: Final = frozenset({"active", "suspended", "pendingActive"})


def check_deliverable(subscriber: Subscriber, offerings: Iterable[Offering], live: Collection[str]) -> None:
    """What goes with a broadband account needs one, and what is delivered is delivered once. `live` are the offerings that the
    subscriber has. Raises `NotEligible`.
    """
    for offering in offerings:
        if offering.fulfilment == BROADBAND_PORT and subscriber.broadband is None:
            raise NotEligible(f"{offering.id} goes with a broadband account: say its number first")
        if offering.kind == "add_on" and offering.id in live:
            raise NotEligible(f"{offering.id} is there already: it is delivered once")


def beside_nothing(offering: Offering) -> Offering:
    """A plan that is changed to needs nothing beside itself, and is not one more."""
    return offering.model_copy(update={"requires": (), "per_subscriber_max": None})


def check_delivery(offering: Offering, delivery: str | None) -> None:
    """Raises `Invalid` where an offering is not delivered so."""
    if delivery is not None and offering.kind != "bundle" and delivery not in offering.deliveries:
        ways = ", ".join(offering.deliveries) or "nothing that is delivered so"
        raise Invalid(f"{offering.id} is delivered as: {ways}")


def check_live(product: Product) -> None:
    """Raises `ProductEnded`."""
    if product.state not in LIVE:
        raise ProductEnded(f"product {product.product_id} is {product.state} already")
