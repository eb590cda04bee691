"""The pages that a subscriber uses in a browser, in Chinese and English."""

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

# FastAPI takes the first route that matches: fixed paths (`products`) come before placeholders (`product_actions`).
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
