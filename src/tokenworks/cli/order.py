"""`tokenworks order`: orders and products."""

from datetime import datetime
from uuid import UUID

import click

from tokenworks.app import views
from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import money_text, plain_fields, print_json, print_table
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import (
    LIST_DEFAULT,
    dry_run_option,
    idempotency_option,
    product_option,
    second_option,
    when_option,
)
from tokenworks.cli.states import order_state, subscriber_state
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import ChangeTiming, day_of


def _product_now(services: AppServices, params: Params) -> object:
    return services.orders.product(params["product"])[0]


@click.command("place")
@audited(subscriber_state)
@subscriber_option
@click.option("--offering", required=True, help="An id from `tokenworks offering list`.")
@click.option("--delivery", help="How an add-on is delivered, where there is a choice.")
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    help="A later day on which it begins, in the seller's zone; nothing is charged before.",
)
@second_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_place(
    context: Context,
    subscriber: str,
    offering: str,
    delivery: str | None,
    start: datetime | None,
    confirm: bool,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Order an offering onto the phone bill, to begin now or on a later day."""
    day = None if start is None else start.date()
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        quoted = ""
        with services.transaction(dry_run=dry_run):
            made = services.orders.place(
                found, offering, idempotency_key, delivery=delivery, confirm=confirm, start=day
            )
        if dry_run and made.new and made.starts_at is None:
            quoted = f" {views.quote_text(services.quotes.place(found, offering, delivery=delivery, confirm=confirm))}"
    again = "" if made.new else " (ordered before with this key)"
    state = "" if made.state == "completed" else f", {made.state}: another system delivers a part of it"
    text = f"product {made.product_id}, {money_text(made.amount_nano)} {made.currency}{state}{again}."
    if made.starts_at is not None:
        text = (
            f"{offering} begins on {day_of(made.starts_at)} ({made.state}); nothing is charged before{again}."
        )
    print_result(
        made, f"It would be {text}{quoted}" if dry_run else f"Order {made.order_id}: {text}", as_json
    )


@click.command("change")
@audited(_product_now)
@product_option
@click.option("--offering", required=True, help="The plan to go on with.")
@when_option
@second_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_change(
    context: Context,
    product: UUID,
    offering: str,
    when: ChangeTiming,
    confirm: bool,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change a product to another plan, now or from the next cycle on. What a part of a cycle costs: `tokenworks order quote`."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.orders.change(product, offering, when, idempotency_key, confirm=confirm)
    amount = f"{money_text(made.amount_nano)} {made.currency}"
    text = {
        "completed": f"is {offering} now: {amount} in all, what was unused of the old plan taken off",
        "inProgress": f"is {offering} now: {amount}; the old plan is credited when nothing of it is granted any more",
        "pending": f"is {offering} from its next cycle on",
    }[made.state]
    print_result(made, f"Product {product} {text}{' (dry run)' if dry_run else ''}.", as_json)


@click.command("cancel")
@audited(_product_now)
@product_option
@when_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_cancel(
    context: Context,
    product: UUID,
    when: ChangeTiming,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Cancel a product, now or with its cycle; unused tokens are withdrawn. What comes back says its offering's proration."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.orders.cancel(product, when, idempotency_key)
        account_id = services.subscriptions.find(str(services.orders.find(made.order_id)[1])).account_id
        pending = [
            bucket.bucket_id
            for bucket in services.ledger.buckets(account_id)
            if bucket.product_id == product and bucket.closing and bucket.granted
        ]
    more = f"; {len(pending)} bucket(s) follow when their grants close" if pending else ""
    ends = "is cancelled" if when == "now" else "ends with its cycle"
    if made.amount_nano:
        ends += f": {money_text(-made.amount_nano)} {made.currency} come back"
    elif made.state == "inProgress":
        ends += ": what comes back is known when nothing of it is granted any more"
    dry = " (dry run)" if dry_run else ""
    print_result(
        {**plain_fields(made), "pending_buckets": pending}, f"Product {product} {ends}{more}{dry}.", as_json
    )


@click.command("suspend")
@audited(_product_now)
@product_option
@json_option
@pass_context
def order_suspend(context: Context, product: UUID, as_json: bool) -> None:
    """Suspend a product: no spending and no renewal until it is resumed."""
    with context.services() as services:
        services.orders.suspend(product)
    print_result({"product_id": product, "state": "suspended"}, f"Product {product} is suspended.", as_json)


@click.command("resume")
@audited(_product_now)
@product_option
@json_option
@pass_context
def order_resume(context: Context, product: UUID, as_json: bool) -> None:
    """Resume a suspended product; where its cycle has ended meanwhile, a new cycle begins now, for the rest of the month."""
    with context.services() as services:
        services.orders.resume(product)
    print_result({"product_id": product, "state": "active"}, f"Product {product} is active.", as_json)


@click.command("list")
@click.option("--subscriber", help="Of this one alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@exact_option
@json_option
@pass_context
def order_list(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Orders, newest first."""
    with context.services() as services:
        of = None if subscriber is None else services.subscriptions.find(subscriber)
        found, count = services.orders.all(of, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (o.order_id, o.ordered_at, o.action, o.offering_id, o.state, "" if o.starts_at is None else day_of(o.starts_at),
         money_text(o.amount_nano), o.reason or "")
        for o in found
    ]  # fmt: skip
    columns = ["order", "at", "action", "offering", "state", "begins", "CNY", "why"]
    print_table(f"Orders ({len(found)} of {count})", columns, rows, right=["CNY"])


@click.command("withdraw")
@audited(order_state)
@click.argument("order_id", type=click.UUID)
@click.option("--reason", help="Why; it is kept.")
@json_option
@pass_context
def order_withdraw(context: Context, order_id: UUID, reason: str | None, as_json: bool) -> None:
    """Withdraw an order that has not begun, or waits for a cycle's end or its delivery. Nothing is charged for it."""
    with context.services() as services:
        services.orders.withdraw(order_id, reason)
        made, _ = services.orders.find(order_id)
    print_result(made, f"Order {order_id} is {made.state}.", as_json)
