"""The pages that a subscriber uses in a browser, in Chinese and English."""

from typing import Final

from tokenworks.pages import (
    assets,
    bill,
    family,
    home,
    keys,
    passkeys,
    pause,
    preferences,
    privacy,
    product_actions,
    products,
    sessions,
    shop,
    sign_in,
    style,
    usage,
)
from tokenworks.pages.events import EventStreams
from tokenworks.pages.page import show_error_pages

# FastAPI takes the first route that matches: fixed paths (`products`) come before placeholders (`product_actions`).
ROUTERS: Final = tuple(
    module.router
    for module in (
        assets,
        preferences,
        home,
        style,
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
        passkeys,
        privacy,
    )
)

__all__ = ["ROUTERS", "EventStreams", "show_error_pages"]
