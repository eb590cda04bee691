"""How much an individual price or credit limit gives a subscriber: staff may give up to a limit without a second approval."""

from tokenworks.catalog import Offerings
from tokenworks.kernel import parse_money


def discount_nano(offerings: Offerings, offering_id: str, price: str) -> int:
    """By how much a contract's price (in yuan, of a cycle or a step) is below the offering's price; 0 if it is not below. Raises
    `OfferingNotFound`, `Invalid`.
    """
    own = parse_money(offerings.on_sale(offering_id).offering.price).amount_nano
    return max(0, own - parse_money(price).amount_nano)


def raise_nano(limit_nano: int | None, to_nano: int | None) -> int:
    """By how much a credit limit is raised. A limit where there was none restricts the subscriber, so it gives nothing."""
    return 0 if limit_nano is None or to_nano is None else max(0, to_nano - limit_nano)
