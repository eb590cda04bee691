"""The pages that subscribers read in a browser, in Chinese and English."""

from typing import Final

from tokenworks.pages import (
    bill,
    family,
    keys,
    pause,
    privacy,
    product_acts,
    products,
    sessions,
    shop,
    sign_in,
    usage,
)
from tokenworks.pages.page import explain_errors_to_people

# A path with a name is asked for before one with a placeholder: `products` before `product_acts`.
ROUTERS: Final = tuple(
    module.router
    for module in (sign_in, shop, products, product_acts, usage, keys, family, bill, pause, sessions, privacy)
)

__all__ = ["ROUTERS", "explain_errors_to_people"]
