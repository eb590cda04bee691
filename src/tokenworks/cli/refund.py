"""`tokenworks refund`."""

from uuid import UUID

import click

from tokenworks.app.output import money_text
from tokenworks.billing import RefundPart
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
)
from tokenworks.cli.options import dry_run_option, idempotency_option
from tokenworks.cli.states import order_state
from tokenworks.cli.trail import audited
from tokenworks.kernel import parse_money


@click.command()
@audited(order_state)
@click.option("--order", "order_id", required=True, type=click.UUID)
@click.option(
    "--part",
    type=click.Choice(["whole", "unused", "amount"]),
    required=True,
    help="All of it; what was not used; or --amount, with which the product goes on.",
)
@click.option("--amount", help="In yuan, with --part amount.")
@click.option("--reason", required=True, help="Why; it is kept.")
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def refund(
    context: Context,
    order_id: UUID,
    part: RefundPart,
    amount: str | None,
    reason: str,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Refund an order with a credit: on the bill that has its charges, or on the next bill."""
    amount_nano = None if amount is None else parse_money(amount).amount_nano
    with context.services() as services:
        made = services.refunds.refund(
            order_id, part, reason, amount_nano=amount_nano, idempotency_key=idempotency_key, dry_run=dry_run
        )
        if not dry_run:
            services.approvals.check(
                context.actor, "refund", str(order_id), services.refunds.at_most(made), idempotency_key
            )
    total = sum(refund.amount_nano or 0 for refund in made)
    waits = sum(refund.state == "pending" for refund in made)
    text = f"{money_text(total)} CNY {'would be' if dry_run else 'are'} credited"
    if waits:
        text += f"; {waits} refund(s) wait until nothing of what they take back is granted any more"
    print_result(made, f"{text}.", as_json)
