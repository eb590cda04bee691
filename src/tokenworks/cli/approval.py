"""`tokenworks approval`: two persons for large amounts."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.options import LIST_DEFAULT
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import format_money


def _approval_now(services: AppServices, params: Params) -> object:
    found, _ = services.approvals.all(limit=1000)
    return next(approval for approval in found if approval.approval_id == params["approval_id"])


@click.command("list")
@click.option("--state", type=click.Choice(["open", "approved", "refused", "used"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def approval_list(context: Context, state: str | None, limit: int, as_json: bool) -> None:
    """Requests for approval, newest first."""
    with context.services() as services:
        found, count = services.approvals.all(state, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (approval.approval_id, approval.action, approval.ref, format_money(approval.amount_nano), approval.asked_by, approval.state, approval.decided_by or "")
        for approval in found
    ]  # fmt: skip
    columns = ["id", "what", "of", "CNY", "asked by", "state", "decided by"]
    print_table(f"Approvals ({len(found)} of {count})", columns, rows, right=["CNY"])


@click.command("give")
@audited(_approval_now)
@click.argument("approval_id", type=click.UUID)
@json_option
@pass_context
def approval_give(context: Context, approval_id: UUID, as_json: bool) -> None:
    """Approve another person's request; that person then repeats the operation."""
    with context.services() as services:
        made = services.approvals.decide(approval_id, context.actor, approve=True)
    text = f"{made.asked_by} may give back {format_money(made.amount_nano)} CNY now: {made.action} of {made.ref}."
    print_result(made, text, as_json)


@click.command("refuse")
@audited(_approval_now)
@click.argument("approval_id", type=click.UUID)
@json_option
@pass_context
def approval_refuse(context: Context, approval_id: UUID, as_json: bool) -> None:
    """Refuse a request for approval, or withdraw your own."""
    with context.services() as services:
        made = services.approvals.decide(approval_id, context.actor, approve=False)
    print_result(made, f"{made.action} of {made.ref} is refused.", as_json)
