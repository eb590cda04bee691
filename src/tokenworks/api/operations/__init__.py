"""Routes for staff: `/api/operations`."""

from typing import Final

from tokenworks.api.operations import (
    billing,
    following,
    notices,
    receivables,
    staff,
    subscribers,
    webhooks,
    work_orders,
)

ROUTERS: Final = tuple(
    module.router
    for module in (receivables, webhooks, subscribers, work_orders, billing, staff, following, notices)
)
