"""Routes for a subscriber's own account: `/api`."""

from typing import Final

from tokenworks.api.account import (
    disputes,
    key_log,
    keys,
    members,
    memberships,
    notice_links,
    notices,
    passkeys,
    privacy,
    quotes,
    sessions,
    sign_in,
    subscriber,
    usage,
)

ROUTERS: Final = tuple(
    module.router
    for module in (
        sign_in,
        sessions,
        passkeys,
        subscriber,
        keys,
        key_log,
        members,
        memberships,
        disputes,
        notice_links,
        notices,
        quotes,
        privacy,
        usage,
    )
)
