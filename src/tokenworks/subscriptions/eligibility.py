"""What can be delivered to whom."""

from collections.abc import Collection, Iterable
from typing import Final

from tokenworks.catalog import Offering
from tokenworks.kernel import Invalid
from tokenworks.subscriptions.errors import NotEligible
from tokenworks.subscriptions.model import Subscriber

# The port whose deliveries are done to a broadband account.
BROADBAND_PORT: Final = "broadband"


def check_deliverable(subscriber: Subscriber, offerings: Iterable[Offering], live: Collection[str]) -> None:
    """What goes with a broadband account needs one, and what is delivered is delivered once. `live` are the offerings that the
    subscriber has. Raises `NotEligible`.
    """
    for offering in offerings:
        if offering.fulfilment == BROADBAND_PORT and subscriber.broadband is None:
            raise NotEligible(f"{offering.id} goes with a broadband account: say its number first")
        if offering.kind == "add_on" and offering.id in live:
            raise NotEligible(f"{offering.id} is there already: it is delivered once")


def check_delivery(offering: Offering, delivery: str | None) -> None:
    """Raises `Invalid` where an offering is not delivered so."""
    if delivery is not None and offering.kind != "bundle" and delivery not in offering.deliveries:
        ways = ", ".join(offering.deliveries) or "nothing that is delivered so"
        raise Invalid(f"{offering.id} is delivered as: {ways}")
