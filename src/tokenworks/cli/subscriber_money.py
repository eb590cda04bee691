"""`tokenworks subscriber`: contract prices, top-ups and the history of balances."""

from datetime import datetime

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import in_mtok, money_text, print_json, print_table
from tokenworks.billing import discount_nano
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import LIST_DEFAULT, dry_run_option
from tokenworks.cli.states import subscriber_state
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import format_quantity, parse_money
from tokenworks.subscriptions import end_of_day


def _prices_now(services: AppServices, params: Params) -> object:
    return services.subscriptions.contract_prices(services.subscriptions.find(params["subscriber"]))


@click.command("contract")
@audited(_prices_now)
@subscriber_option
@click.option("--offering", required=True)
@click.option("--price", required=True, help="A month, or a step, in yuan.")
@click.option("--contract", "contract_no", required=True, help="The contract's number.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day on which it holds; left out: it has none.",
)
@json_option
@pass_context
def subscriber_contract(
    context: Context, subscriber: str, offering: str, price: str, contract_no: str, until: datetime | None, as_json: bool
) -> None:  # fmt: skip
    """Set a contract price for a subscriber, from now on. Charges that are made stay."""
    end = None if until is None else end_of_day(until)
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        services.subscriptions.set_contract_price(found, offering, price, contract_no, valid_until=end)
        services.approvals.check(
            context.actor, "subscriber.contract", f"{found.subscriber_id} {offering}",
            discount_nano(services.offerings, offering, price), contract_no,
        )  # fmt: skip
    print_result(
        {"subscriber_id": found.subscriber_id, "offering": offering, "price": price, "until": end},
        f"{offering} costs {price} yuan for {found.subscriber_id}.",
        as_json,
    )


@click.command("top-up")
@audited(subscriber_state)
@subscriber_option
@click.option("--amount", required=True, help="In yuan: a whole number of steps.")
@click.option("--idempotency-key", required=True, help="The same key again is the same top-up.")
@dry_run_option
@exact_option
@json_option
@pass_context
def subscriber_top_up(
    context: Context, subscriber: str, amount: str, idempotency_key: str, dry_run: bool, as_json: bool
) -> None:
    """Buy pay-as-you-go steps by hand, onto the phone bill."""
    amount_nano = parse_money(amount).amount_nano
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.subscriptions.find(subscriber)
        made = services.payg.top_up(found, amount_nano, idempotency_key)
        if not dry_run:
            services.approvals.check(
                context.actor, "balance.topup", str(found.subscriber_id), amount_nano, idempotency_key
            )
    dry = " (dry run)" if dry_run else ""
    print_result(made, f"{made.steps} step(s) for {money_text(made.amount_nano)} CNY{dry}.", as_json)


@click.command("history")
@subscriber_option
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def subscriber_history(context: Context, subscriber: str, limit: int, as_json: bool) -> None:
    """Increases and decreases of a subscriber's balances except usage, newest first."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        moves, count = services.transfers.history(found.account_id, 0, limit)
    if as_json:
        print_json([in_mtok(move, "amount") for move in moves])
        return
    rows = [
        (m.at, m.kind, f"{'+' if m.amount > 0 else ''}{format_quantity(m.amount, m.unit)}", m.bucket_id)
        for m in moves
    ]  # fmt: skip
    print_table(
        f"Balances ({len(moves)} of {count})",
        ["at", "what", "how much", "bucket"],
        rows,
        right=["how much"],
    )
