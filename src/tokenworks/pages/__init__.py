"""The pages that subscribers read in a browser, in Chinese and English."""

from typing import Final

from tokenworks.pages import (
    bill,
    family,
    keys,
    pause,
    privacy,
    product_actions,
    products,
    sessions,
    shop,
    sign_in,
    usage,
)
from tokenworks.pages.page import show_error_pages

# A path with a name is asked for before one with a placeholder: `products` before `product_actions`.
ROUTERS: Final = tuple(
    module.router
    for module in (
        sign_in,
        shop,
        products,
        product_actions,
        usage,
        keys,
        family,
        bill,
        pause,
        sessions,
        privacy,
    )
)

__all__ = ["ROUTERS", "show_error_pages"]
