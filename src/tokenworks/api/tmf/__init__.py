"""The TM Forum resources: `/tmf-api`."""

from typing import Final

from tokenworks.api.tmf import (
    adjustments,
    bills,
    buckets,
    catalog,
    drafts,
    history,
    hub,
    inventory,
    orders,
    payments,
    refunds,
    service_orders,
    top_ups,
    transfers,
    usage,
)

ROUTERS: Final = (
    catalog.router,
    drafts.router,
    orders.router,
    inventory.router,
    buckets.router,
    top_ups.router,
    adjustments.router,
    transfers.router,
    history.router,
    usage.router,
    bills.router,
    payments.router,
    refunds.router,
    *hub.hub_routers,
    service_orders.router,
)
