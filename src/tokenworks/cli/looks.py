"""What commands of several files are about, as the audit trail has it before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenworks.app.output import plain

if TYPE_CHECKING:
    from tokenworks.app.bootstrap import AppServices


def look_at_subscriber(services: AppServices, params: Mapping[str, Any]) -> object:
    found = services.subscriptions.find(params.get("subscriber") or params["phone"])
    return {
        **plain(found),
        "phone": found.phone_masked,
        "products": {str(p.product_id): [p.offering_id, p.state] for p in services.orders.products(found)},
        "owes_nano": services.charges.receivable(found.account_id),
    }


def look_at_order(services: AppServices, params: Mapping[str, Any]) -> object:
    order, _ = services.orders.find(params["order_id"])
    return {"order": plain(order), "refunds": plain(services.refunds.of_order(order.order_id))}


def look_at_bill(services: AppServices, params: Mapping[str, Any]) -> object:
    bill = services.bills.find(params["bill_no"])
    return {**plain(bill), "credit_notes": plain(services.bills.credit_notes(bill))}
