"""The pages that subscribers and staff use in a browser, in Chinese and English."""

from typing import Final

from tokenworks.pages import (
    assets,
    bill,
    family,
    home,
    keys,
    ops,
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
        ops,
    )
)
# The staff port: /ops, and what its pages load.
STAFF_ROUTERS: Final = (ops.router, ops.staff_port_router)

__all__ = ["ROUTERS", "STAFF_ROUTERS", "EventStreams", "show_error_pages"]
