"""State readers for the audit trail that commands of several files share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenworks.app.output import plain, plain_fields

if TYPE_CHECKING:
    from tokenworks.app.bootstrap import AppServices
    from tokenworks.cli.trail import Params


def subscriber_state(services: AppServices, params: Params) -> object:
    found = services.subscriptions.find(params.get("subscriber") or params["phone"])
    return {
        **plain_fields(found),
        "phone": found.phone_masked,
        "products": {str(p.product_id): [p.offering_id, p.state] for p in services.orders.products(found)},
        "owes_nano": services.charges.receivable(found.account_id),
    }


def order_state(services: AppServices, params: Params) -> object:
    order, _ = services.orders.find(params["order_id"])
    return {"order": plain(order), "refunds": plain(services.refunds.of_order(order.order_id))}


def bill_state(services: AppServices, params: Params) -> object:
    bill = services.bills.find(params["bill_no"])
    return {**plain_fields(bill), "credit_notes": plain(services.bills.credit_notes(bill))}
